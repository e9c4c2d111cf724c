-- Asks for the files 1 to 100, and counts bodies that are not what `seq` wrote.
local threads = {}

function setup(thread) table.insert(threads, thread) end

function init()
    wrong, number = 0, 0
end

function request()
    number = number % 100 + 1
    return wrk.format("GET", "/" .. number)
end

-- Responses do not say which file they are: the last line does, n * n for some n.
function response(status, headers, body)
    local last = tonumber(body:match("(%d+)\n$"))
    local lines = select(2, body:gsub("\n", ""))
    if status ~= 200 or last ~= lines or math.sqrt(last) % 1 ~= 0 then
        wrong = wrong + 1
    end
end

function done()
    local sum = 0
    for _, thread in ipairs(threads) do sum = sum + thread:get("wrong") end
    print("wrong bodies: " .. sum)
end
