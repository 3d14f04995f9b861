-- What the scripts share. wrk runs a script once in itself and once in each thread, and
-- `init` in the threads only; what follows `--` on the command line is NAME=VALUE.

local ffi = require("ffi")
ffi.cdef [[
  typedef struct { long seconds; long nanoseconds; } moment;
  int clock_gettime(int clock, moment *now);
]]

local common = { late_ms = 0, answers = 0 }
local threads = {}
local moment = ffi.new("moment")

function common.now_ms()
  ffi.C.clock_gettime(1, moment)
  return tonumber(moment.seconds) * 1000 + tonumber(moment.nanoseconds) / 1e6
end

-- The options, and the lines of the file that `accounts` names.
function common.read(args)
  local options = {}
  for _, text in ipairs(args) do
    local name, value = text:match("^([%w_]+)=(.*)$")
    options[name] = tonumber(value) or value
  end
  math.randomseed(options.seed + number_of_thread)
  return options
end

function common.lines(path)
  local lines = {}
  for line in io.lines(path) do
    lines[#lines + 1] = line
  end
  return lines
end

-- An independent arrival: requests are due at the moments of a Poisson process, and
-- whichever connection is free takes the next one. So a slow answer does not slow down
-- those that come. `late_ms` is the longest that one waited for a free connection.
function common.pacer(rate)
  local due = nil
  return function()
    local now = common.now_ms()
    due = (due or now) - math.log(1 - math.random()) * 1000 / rate
    local wait = due - now
    if wait < 0 then
      common.late_ms = math.max(common.late_ms, -wait)
      late_ms = common.late_ms
      return 0
    end
    return math.floor(wait)
  end
end

-- wrk reads these globals.
function setup(thread)
  threads[#threads + 1] = thread
  thread:set("number_of_thread", #threads)
end

function done(summary, latency, _requests)
  local late, finished = 0, 0
  for _, thread in ipairs(threads) do
    late = math.max(late, thread:get("late_ms") or 0)
    finished = finished + (thread:get("finished") or 0)
  end
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"seconds":%.6f,"bytes":%d,"finished":%d,"late_ms":%.1f,' ..
    '"p50_ms":%.3f,"p95_ms":%.3f,"p99_ms":%.3f,"max_ms":%.3f,"mean_ms":%.3f,' ..
    '"errors":{"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}}\n',
    summary.requests, summary.duration / 1e6, summary.bytes, finished, late,
    latency:percentile(50) / 1000, latency:percentile(95) / 1000,
    latency:percentile(99) / 1000, latency.max / 1000, latency.mean / 1000,
    errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end

return common
