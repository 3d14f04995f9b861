-- GET of random ones of the paths in a file, one a line.
-- paths, seed, token (of the API) or cookie (of the admin).

local common = require("common")

function init(args)
  local options = common.read(args)
  local paths = common.lines(options.paths)
  local random = math.random
  local tail = " HTTP/1.1\r\nHost: 127.0.0.1\r\n" ..
    (options.token and "Authorization: Bearer " .. options.token .. "\r\n" or "") ..
    (options.cookie and "Cookie: " .. options.cookie .. "\r\n" or "") .. "\r\n"

  function request()
    return "GET " .. paths[random(1, #paths)] .. tail
  end
end
