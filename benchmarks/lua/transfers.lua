-- Single transfers: from a random account, or from one; to a random other one.
-- accounts, seed, key, token; hot=1: all from the first account; rate: paced;
-- keys=N: only so many different requests, each of which is always the same.

local common = require("common")

function init(args)
  local options = common.read(args)
  local ids = common.lines(options.accounts)
  local count, hot, keys = #ids, options.hot == 1, options.keys
  local head = "POST /v1/transfers HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer " ..
    options.token .. "\r\nContent-Type: application/json\r\nIdempotency-Key: " ..
    options.key .. "-"
  local random, number = math.random, 0

  function request()
    local from, to, amount
    if keys then
      -- The same numbers for the same key.
      number = random(1, keys)
      from, to, amount = number, number % count + 1, number % 100 + 1
    else
      number = number + 1
      from = hot and 1 or random(1, count)
      to = (from - 1 + random(1, count - 1)) % count + 1
      amount = random(1, 100)
    end
    local body = '{"from_account_id":"' .. ids[from] .. '","to_account_id":"' .. ids[to] ..
      '","amount":' .. amount .. '}'
    return head .. number .. "\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body
  end

  if options.rate then
    delay = common.pacer(options.rate)
  end
end
