-- Batches of transfers; each thread uses its own part of the accounts. The bodies are
-- made beforehand. Each batch comes over a new connection, which whichever web worker is
-- free accepts: two kept ones may stay with the same worker.
-- accounts, seed, key, token, size, atomic=true|false, threads, bodies.

local common = require("common")

function init(args)
  local options = common.read(args)
  local ids = common.lines(options.accounts)
  local count = math.floor(#ids / options.threads)
  local first = 1 + (number_of_thread - 1) * count
  local random, number, bodies = math.random, 0, {}
  for index = 1, options.bodies do
    local items = {}
    for item = 1, options.size do
      local from = random(0, count - 1)
      local to = (from + random(1, count - 1)) % count
      items[item] = '{"from_account_id":"' .. ids[first + from] .. '","to_account_id":"' ..
        ids[first + to] .. '","amount":' .. random(1, 100) .. '}'
    end
    local body = '{"atomic":' .. options.atomic .. ',"transfers":[' ..
      table.concat(items, ",") .. "]}"
    bodies[index] = "\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body
  end
  local head = "POST /v1/transfers/batch HTTP/1.1\r\nHost: 127.0.0.1\r\n" ..
    "Connection: close\r\nAuthorization: Bearer " .. options.token ..
    "\r\nContent-Type: application/json\r\nIdempotency-Key: " .. options.key .. "-" .. number_of_thread .. "-"

  function request()
    number = number + 1
    return head .. number .. bodies[number % options.bodies + 1]
  end
end
