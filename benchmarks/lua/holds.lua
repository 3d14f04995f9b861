-- Holds between random accounts; with capture=1 each is captured by a later request.
-- accounts, seed, key, token, capture.

local common = require("common")
finished = 0

function init(args)
  local options = common.read(args)
  local ids = common.lines(options.accounts)
  local count, random, number, held = #ids, math.random, 0, {}
  local head = " HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer " .. options.token ..
    "\r\nContent-Type: application/json\r\nIdempotency-Key: " .. options.key .. "-"

  function request()
    number = number + 1
    local path, body = "/v1/holds", "{}"
    local id = table.remove(held)
    if id then
      path = "/v1/holds/" .. id .. "/capture"
    else
      local from = random(1, count)
      local to = (from - 1 + random(1, count - 1)) % count + 1
      body = '{"from_account_id":"' .. ids[from] .. '","to_account_id":"' .. ids[to] ..
        '","amount":' .. random(1, 100) .. ',"lifetime_seconds":86400}'
    end
    return "POST " .. path .. head .. number .. "\r\nContent-Length: " .. #body ..
      "\r\n\r\n" .. body
  end

  if options.capture == 1 then
    function response(_status, _headers, body)
      if body:find('"status":"active"', 1, true) then
        held[#held + 1] = body:match('^{"id":"([^"]+)"')
      else
        finished = finished + 1
      end
    end
  end
end
