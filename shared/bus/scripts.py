"""The Lua scripts of the bus: each is one step that must happen entirely or not at all.

`KEYS` of those that serve a consumer are its two request streams, hi before lo; a stream is named
by its 1-based number among them.

At its memory limit Redis refuses a script's first write when that could take memory, and lets a
script that has begun to write go on. What only makes room in the end (an answer, a dead letter, a
cancellation, a heartbeat) therefore begins with a write that takes none and changes nothing:
`PERSIST` of a key that never expires, or is set anew anyway.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from shared.bus.connection import command


class Script:
    """A Lua script, called by its hash and sent in full only when Redis doesn't know it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(
        self, redis: Redis, keys: Sequence[str], arguments: Sequence[str | bytes | int]
    ) -> Any:
        try:
            return await command(redis, "EVALSHA", self.sha, len(keys), *keys, *arguments)
        except NoScriptError:  # a fresh or restarted Redis
            return await command(redis, "EVAL", self.text, len(keys), *keys, *arguments)


_NOW = """
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
"""

_FIELDS = """
local function fields(entry)
  local found = {m = '', j = ''}
  for i = 1, #entry[2], 2 do found[entry[2][i]] = entry[2][i + 1] end
  return found
end
"""

_MAKE_ROOM = """
local function make_room(key, kind)
  local found = redis.call('TYPE', key).ok
  if found == 'none' or found == kind then return 0 end
  redis.call('RENAME', key, key .. ':misplaced')
  return 1
end
"""

CREATE_GROUPS = Script(
    _MAKE_ROOM
    + """
-- KEYS: streams. ARGV: group. From 0 and with the stream, so that lag is known from the start.
-- Makes room in the same step, as somebody may be putting other things there all the time.
for _, stream in ipairs(KEYS) do
  make_room(stream, 'stream')
  redis.call('PERSIST', stream)  -- takes no memory: see above
  local made = redis.pcall('XGROUP', 'CREATE', stream, ARGV[1], '0', 'MKSTREAM')
  if made.err and not string.find(made.err, 'BUSYGROUP') then return made end
end
return #KEYS
"""
)

MAKE_ROOM = Script(
    _MAKE_ROOM
    + """
-- KEYS: keys of ours. ARGV: the kind each should be of ('stream', 'list', 'set').
-- Renames what lies there and is of another kind to <key>:misplaced. Returns how many there were.
local renamed = 0
for number, key in ipairs(KEYS) do renamed = renamed + make_room(key, ARGV[number]) end
return renamed
"""
)

SEND = Script("""
-- KEYS: stream. ARGV: group, limit, number of parcels, size of each, then (job id, message) of all.
-- Parcels are added in order, each whole, while they fit. Returns how many were added.
local room = redis.call('XLEN', KEYS[1])
if room == 0 then redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM') end
room = tonumber(ARGV[2]) - room
local parcels = tonumber(ARGV[3])
local at = 4 + parcels
for parcel = 1, parcels do
  local size = tonumber(ARGV[3 + parcel])
  if size > room then return parcel - 1 end
  for _ = 1, size do
    redis.call('XADD', KEYS[1], '*', 'm', ARGV[at + 1], 'j', ARGV[at])
    at = at + 2
  end
  room = room - size
end
return parcels
""")

TAKE = Script(
    _NOW
    + _FIELDS
    + """
-- ARGV: group, consumer, room, prefix of cancel keys, further job ids to check.
-- Returns {entries: stream number, id, message, job id each; ids of the cancelled among the jobs;
-- the time in ms}. From one stream only: an interactive request shares no batch with a benchmark's,
-- which would take it as long as a full one.
local room, entries, jobs = tonumber(ARGV[3]), {}, {}
for number, stream in ipairs(KEYS) do
  local got = room > 0 and #entries == 0 and redis.call(
    'XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', room, 'STREAMS', stream, '>')
  if got then
    for _, entry in ipairs(got[1][2]) do
      local found, n = fields(entry), #entries
      entries[n + 1], entries[n + 2] = number, entry[1]
      entries[n + 3], entries[n + 4] = found.m, found.j
      jobs[found.j] = true
      room = room - 1
    end
  end
end
for i = 5, #ARGV do jobs[ARGV[i]] = true end
local cancelled = {}
for job in pairs(jobs) do
  if redis.call('EXISTS', ARGV[4] .. job) == 1 then cancelled[#cancelled + 1] = job end
end
return {entries, cancelled, now_ms()}
"""
)

RESCUE = Script(
    _NOW
    + _FIELDS
    + """
-- ARGV: group, consumer, lease in ms, prefix of cancel keys, most, newest version read, prefix of
-- shelves, our own shelf. Takes over what its consumer no longer holds: as many as asked of those
-- that were left or handed back untried (delivery count 0), or else one suspect alone, whose lease
-- has lapsed.
-- Returns {entries: stream number, id, message, job id, deliveries each; ids of the cancelled among
-- the jobs; the time in ms} or false.
local function free(stream)
  local left = redis.call('XPENDING', stream, ARGV[1], '-', '+', ARGV[5], ARGV[8])
  if #left > 0 then return left, 0 end
  for version = 2, tonumber(ARGV[6]) do
    local shelf = ARGV[7] .. version
    local found = redis.call('XPENDING', stream, ARGV[1], '-', '+', ARGV[5], shelf)
    if #found > 0 then return found, 0 end
  end
  return redis.call('XPENDING', stream, ARGV[1], 'IDLE', ARGV[3], '-', '+', ARGV[5]), ARGV[3]
end
for number, stream in ipairs(KEYS) do
  local pending, idle = free(stream)
  local chosen = {}
  for _, entry in ipairs(pending) do
    if entry[4] == 0 then chosen[#chosen + 1] = entry end
  end
  if #chosen == 0 then chosen[1] = pending[1] end
  local entries, cancelled, jobs = {}, {}, {}
  for _, lapsed in ipairs(chosen) do
    local entry = redis.call('XCLAIM', stream, ARGV[1], ARGV[2], idle, lapsed[1])[1]
    if entry then
      local found, n = fields(entry), #entries
      entries[n + 1], entries[n + 2] = number, entry[1]
      entries[n + 3], entries[n + 4], entries[n + 5] = found.m, found.j, lapsed[4] + 1
      jobs[found.j] = true
    else
      redis.call('XACK', stream, ARGV[1], lapsed[1])  -- its entry was deleted by hand
    end
  end
  if #entries > 0 then
    for job in pairs(jobs) do
      if redis.call('EXISTS', ARGV[4] .. job) == 1 then cancelled[#cancelled + 1] = job end
    end
    return {entries, cancelled, now_ms()}
  end
end
return false
"""
)

_OWNED = """
local function owned(stream, group, consumer)
  local mine = {}
  for _, pending in ipairs(redis.call('XPENDING', stream, group, '-', '+', 100000, consumer)) do
    mine[pending[1]] = true
  end
  return mine
end
"""

RENEW = Script(
    _OWNED
    + """
-- ARGV: group, consumer, (stream number, id)*. Renews the leases that are still ours, the delivery
-- count left alone (JUSTID). Returns how many.
local mine, renewed = {}, 0
for number, stream in ipairs(KEYS) do mine[number] = owned(stream, ARGV[1], ARGV[2]) end
for i = 3, #ARGV, 2 do
  local number = tonumber(ARGV[i])
  if mine[number][ARGV[i + 1]] then
    redis.call('XCLAIM', KEYS[number], ARGV[1], ARGV[2], 0, ARGV[i + 1], 'JUSTID')
    renewed = renewed + 1
  end
end
return renewed
"""
)

_REPLY = """
local function reply(list, message)
  local pushed = redis.pcall('RPUSH', list, message)
  -- A reply list that is no list is its sender's mistake and must not block anybody else's answer.
  if type(pushed) == 'table' and pushed.err and not string.find(pushed.err, 'WRONGTYPE') then
    return pushed
  end
end
"""

HAND_BACK = Script(
    _OWNED
    + """
-- ARGV: group, consumer, who keeps them, idle time to give them in ms, (stream number, id,
-- deliveries)*. Lets go of what is still ours; this delivery does not count. Returns how many.
local mine, given = {}, 0
for number, stream in ipairs(KEYS) do mine[number] = owned(stream, ARGV[1], ARGV[2]) end
for i = 5, #ARGV, 3 do
  local number = tonumber(ARGV[i])
  if mine[number][ARGV[i + 1]] then
    redis.call('XCLAIM', KEYS[number], ARGV[1], ARGV[3], 0, ARGV[i + 1],
      'IDLE', ARGV[4], 'RETRYCOUNT', ARGV[i + 2] - 1, 'JUSTID')
    given = given + 1
  end
end
return given
"""
)

LEAVE = Script(
    _OWNED
    + """
-- ARGV: group, consumer, prefix of heartbeats, prefix of shelves, how many a shelf holds, (stream
-- number, id, whose it should be)*. Puts what is ours on the shelf of a consumer that lives, while
-- there is room; it is no delivery. Returns the places (from 1) of what was left.
local mine, left = {}, {}
for number, stream in ipairs(KEYS) do mine[number] = owned(stream, ARGV[1], ARGV[2]) end
for i = 6, #ARGV, 3 do
  local number, id, shelf = tonumber(ARGV[i]), ARGV[i + 1], ARGV[4] .. ARGV[i + 2]
  if mine[number][id] and redis.call('EXISTS', ARGV[3] .. ARGV[i + 2]) == 1
    and #redis.call('XPENDING', KEYS[number], ARGV[1], '-', '+', ARGV[5], shelf) < tonumber(ARGV[5])
  then
    redis.call('XCLAIM', KEYS[number], ARGV[1], shelf, 0, id, 'IDLE', 0, 'RETRYCOUNT', 0, 'JUSTID')
    left[#left + 1] = (i - 3) / 3
  end
end
return left
"""
)

RELEASE = Script("""
-- ARGV: group, shelf, who keeps it, idle time to give it in ms. Anybody may take what lay there.
for _, stream in ipairs(KEYS) do
  for _, pending in ipairs(redis.call('XPENDING', stream, ARGV[1], '-', '+', 100000, ARGV[2])) do
    redis.call('XCLAIM', stream, ARGV[1], ARGV[3], 0, pending[1],
      'IDLE', ARGV[4], 'RETRYCOUNT', 0, 'JUSTID')
  end
end
return 1
""")

FINISH = Script(
    _OWNED
    + _REPLY
    + """
-- ARGV: group, consumer, reply expiry in s, (stream number, id, reply list, reply)*.
-- Replies, acknowledges and deletes what is still ours; what another consumer has taken over is
-- left to it: a consumer that was frozen records nothing. Returns how many were recorded.
local mine, lists, recorded = {}, {}, 0
redis.call('PERSIST', KEYS[1])  -- takes no memory: see above
for number, stream in ipairs(KEYS) do mine[number] = owned(stream, ARGV[1], ARGV[2]) end
for i = 4, #ARGV, 4 do
  local number, id, list = tonumber(ARGV[i]), ARGV[i + 1], ARGV[i + 2]
  if mine[number][id] then
    local refused = reply(list, ARGV[i + 3])  -- first, so that a refused write loses nothing
    if refused then return refused end
    redis.call('XACK', KEYS[number], ARGV[1], id)
    redis.call('XDEL', KEYS[number], id)
    lists[list] = true
    recorded = recorded + 1
  end
end
for list in pairs(lists) do redis.call('EXPIRE', list, ARGV[3]) end
return recorded
"""
)

SET_ASIDE = Script(
    _REPLY
    + """
-- KEYS: request stream, where to. ARGV: group, consumer, id, message, job id, reason, deliveries,
-- length kept, reply expiry in s, reply list ('' = none known), reply.
if not redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2])[1] then return 0 end
redis.call('PERSIST', KEYS[1])  -- takes no memory: see above
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[8], '*', 'm', ARGV[4], 'j', ARGV[5],
  'reason', ARGV[6], 'deliveries', ARGV[7], 'stream', KEYS[1])
if ARGV[10] ~= '' then
  local refused = reply(ARGV[10], ARGV[11])
  if refused then return refused end
  redis.call('EXPIRE', ARGV[10], ARGV[9])
end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
redis.call('XDEL', KEYS[1], ARGV[3])
return 1
"""
)

RETRY_DEAD = Script(
    _FIELDS
    + """
-- KEYS: dead letters, then the request streams it may go back to. ARGV: id.
local entry = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not entry then return 0 end
local found = fields(entry)
local stream = found.stream == KEYS[2] and KEYS[2] or KEYS[3]
redis.call('XADD', stream, '*', 'm', found.m, 'j', found.j)
redis.call('XDEL', KEYS[1], ARGV[1])
return 1
"""
)

DEPTH = Script(
    _NOW
    + """
-- KEYS: request streams, dead letters, parked. ARGV: group.
-- Returns {length, delivered of each request stream; dead; parked; when the oldest was queued
-- (0 = none); the time}, times in ms.
local queues, oldest = {}, 0
for number = 1, 2 do
  local summary = redis.pcall('XPENDING', KEYS[number], ARGV[1])
  -- No group yet: nothing was delivered.
  queues[number] = {redis.call('XLEN', KEYS[number]), summary.err and 0 or summary[1]}
  local first = redis.call('XRANGE', KEYS[number], '-', '+', 'COUNT', 1)[1]
  local queued = first and tonumber(string.match(first[1], '^%d+')) or 0
  if queued > 0 and (oldest == 0 or queued < oldest) then oldest = queued end
end
return {queues[1], queues[2], redis.call('XLEN', KEYS[3]), redis.call('XLEN', KEYS[4]),
  oldest, now_ms()}
"""
)

HEARTBEAT = Script("""
-- KEYS: heartbeat, set of names. ARGV: name, heartbeat, kept for so many s.
redis.call('PERSIST', KEYS[1])  -- takes no memory: see above
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
redis.call('SADD', KEYS[2], ARGV[1])
return 1
""")

CANCEL = Script("""
-- KEYS: the job's cancel key. ARGV: kept for so many s.
redis.call('PERSIST', KEYS[1])  -- takes no memory: see above
redis.call('SET', KEYS[1], 1, 'EX', ARGV[1])
return 1
""")

FORGET_CONSUMERS = Script("""
-- ARGV: group, idle in ms, one to forget at once ('' = none). Forgets only those that hold nothing.
for _, stream in ipairs(KEYS) do
  for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', stream, ARGV[1])) do
    local consumer = {}
    for i = 1, #flat, 2 do consumer[flat[i]] = flat[i + 1] end
    local gone = consumer.name == ARGV[3] or consumer.idle > tonumber(ARGV[2])
    if gone and consumer.pending == 0 then
      redis.call('XGROUP', 'DELCONSUMER', stream, ARGV[1], consumer.name)
    end
  end
end
return 1
""")
