-- POST of a transfer to a view that answers a constant: what a replay sends, but the key.
-- seed.

local common = require("common")

local BODY = '{"from_account_id":"00000000-0000-0000-0000-000000000001",' ..
  '"to_account_id":"00000000-0000-0000-0000-000000000002","amount":5000}'

function init(args)
  common.read(args)
  local text = "POST /checked HTTP/1.1\r\nHost: 127.0.0.1\r\n" ..
    "Content-Type: application/json\r\nContent-Length: " .. #BODY .. "\r\n\r\n" .. BODY

  function request()
    return text
  end
end
