-- The journal in Redis: every write is one call of one function, so it is atomic; Redis' clock is the only one.
--
-- redis_library.py puts `#!lua name=NAME` and `local NAME = 'NAME'` before this. Keys are described in docs/journal.md;
-- all of them begin with the one key a call names, which is a hash tag: `{bridge}`. Arguments come as a flat list and
-- are read in the order they were written in (redis_change.py); an optional one is '0', or '1' and its value. Times are
-- whole microseconds. What is written is checked before: a function that fails half way is not undone.

local SLACK = 5000000 -- by how much the clocks of two servers may differ, one of which takes over from the other
local BATCH = 64 -- what one call does of what has become due by itself
local HIT_TIDY = 64
local FORGET_MAX = 500
local DAY = 86400000000
local ANSWER_MS = 60000 -- for so long a call that is repeated after a lost answer finds what it did

local P, ARGS, AT, NOW, TOPICS -- of the call that runs

local function call(...)
  return redis.call(...) -- redis.call is not there yet while the library is loaded
end

-- Arguments

local function take()
  AT = AT + 1
  return ARGS[AT]
end

local function number()
  return tonumber(take())
end

local function optional(read)
  if take() == '1' then
    return read()
  end
  return nil
end

local function list(read)
  local found = {}
  for i = 1, number() do
    found[i] = read()
  end
  return found
end

-- Names and numbers

local function text(n)
  return string.format('%.0f', n)
end

local function named(kind, first, second)
  -- Two parts of a key cannot be taken for others: the first one's length is told.
  if second then
    return P .. kind .. ':' .. #first .. ':' .. first .. ':' .. second
  end
  return P .. kind .. ':' .. first
end

local function member(n, name)
  -- Of equal scores the one that was made first comes first.
  return string.format('%016.0f', n) .. name
end

local function name_of(m)
  return string.sub(m, 17)
end

local function count(counter)
  return call('HINCRBY', P .. 'counters', counter, 1)
end

local function wake(topic)
  TOPICS[#TOPICS + 1] = topic
end

local function iso(at)
  local ms = math.floor(at / 1000)
  local seconds = math.floor(ms / 1000)
  local days = math.floor(seconds / 86400)
  local rest = seconds - days * 86400
  -- Days since 1970 to a date, by Howard Hinnant's civil_from_days.
  local z = days + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local day = doy - math.floor((153 * mp + 2) / 5) + 1
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03dZ', year, month, day,
    math.floor(rest / 3600), math.floor(rest / 60) % 60, rest % 60, ms - seconds * 1000)
end

local function after_in(key, since, past, before, limit)
  -- Members with scores from `since` on and below `before`, those that follow `past` in the order.
  local found, skipped = {}, 0
  local low = since or '-inf'
  local high = before and '(' .. before or '+inf'
  while #found < limit do
    local page = call('ZRANGEBYSCORE', key, low, high, 'WITHSCORES', 'LIMIT', skipped, limit + 1)
    for i = 1, #page, 2 do
      if #found < limit and not (since and tonumber(page[i + 1]) == since and page[i] <= past) then
        found[#found + 1] = name_of(page[i])
      end
    end
    if #page < 2 * (limit + 1) then
      break
    end
    skipped = skipped + limit + 1
  end
  return found
end

-- Sessions

local FIELDS = { 'number', 'state', 'created', 'active', 'first', 'last', 'served', 'oldest', 'pending', 'token' }

local function session(id)
  local row = call('HMGET', named('s', id), unpack(FIELDS))
  if not row[1] then
    return nil
  end
  local s = { id = id, token = row[10], state = row[2] }
  for i, field in ipairs(FIELDS) do
    if field ~= 'state' and field ~= 'token' then
      s[field] = tonumber(row[i] or '0')
    end
  end
  s.member = member(s.number, id)
  return s
end

local function told(id)
  local row = call('HMGET', named('s', id), 'token', 'state', 'created', 'active', 'first', 'last')
  if not row[1] then
    return nil
  end
  return { id, unpack(row) }
end

local function all_told(ids)
  local found = {}
  for _, id in ipairs(ids) do
    found[#found + 1] = told(id)
  end
  return found
end

local function place(s)
  -- Write a session's state and last use, and keep the sets that list it.
  call('HSET', named('s', s.id), 'state', s.state, 'active', text(s.active), 'pending', s.pending)
  for _, state in ipairs({ 'live', 'asleep', 'closed' }) do
    if s.state == state then
      call('ZADD', P .. 'state:' .. state, s.active, s.member)
    else
      call('ZREM', P .. 'state:' .. state, s.member)
    end
  end
  if s.state == 'live' and s.pending == 0 then
    call('ZADD', P .. 'idle', s.active, s.member)
  else
    call('ZREM', P .. 'idle', s.member)
  end
  if s.state == 'closed' then
    call('ZREM', P .. 'oldest', s.id)
  end
end

local function set_oldest(s, at)
  s.oldest = at or 0
  call('HSET', named('s', s.id), 'oldest', text(s.oldest))
  if at then
    call('ZADD', P .. 'oldest', at, s.id)
  else
    call('ZREM', P .. 'oldest', s.id)
  end
end

local function live()
  return call('ZCARD', P .. 'state:live')
end

-- Leases

local function held_until(name)
  -- A clock that was set back must not make a dead worker's lease last: none ends later than its length from now.
  local row = call('HMGET', named('l', name), 'expires', 'ttl')
  local expires, ttl = tonumber(row[1] or '0'), tonumber(row[2] or '0')
  if expires > NOW and expires <= NOW + ttl + SLACK then
    return expires
  end
  return nil
end

local function is_holder(name, holder, epoch)
  local row = call('HMGET', named('l', name), 'holder', 'epoch')
  return row[1] == holder and row[2] == epoch
end

local function offer(s)
  -- Put a session where claims look: `ready` by when it was served last, `parked` while somebody holds its lease.
  local first = call('ZRANGE', named('r', s.id), 0, 0)[1]
  if not first then
    call('ZREM', P .. 'ready', s.member)
    call('ZREM', P .. 'parked', s.member)
    return
  end
  local expires = held_until('session:' .. s.id)
  if expires then
    call('ZREM', P .. 'ready', s.member)
    call('ZADD', P .. 'parked', expires, s.member)
  else
    call('ZREM', P .. 'parked', s.member)
    -- Those that were never served come first, in the order in which they asked.
    call('ZADD', P .. 'ready', s.served > 0 and s.served or tonumber(first), s.member)
  end
end

local function lease_moved(name, expires)
  if string.sub(name, 1, 8) == 'session:' then
    local s = session(string.sub(name, 9))
    if s then
      offer(s)
    end
  elseif string.sub(name, 1, 7) == 'worker:' then
    call('ZADD', P .. 'workers', expires, name)
  end
end

local function take_lease(name, holder, ttl)
  local key = named('l', name)
  call('HSET', key, 'holder', holder, 'expires', text(NOW + ttl), 'ttl', text(ttl))
  local epoch = call('HINCRBY', key, 'epoch', 1)
  lease_moved(name, NOW + ttl)
  return epoch
end

-- Inputs

local INPUT = { 'session', 'kind', 'seq', 'key', 'turn', 'started', 'takeovers', 'cancelled' }

local function input(id)
  local row = call('HMGET', named('i', id), unpack(INPUT))
  if not row[1] then
    return nil
  end
  -- A turn's id is '' where there is none.
  return { id, unpack(row) }
end

local function ready_score(id, turn)
  -- What was begun and lost goes before what nobody has begun.
  return tonumber(id) - (turn ~= '' and 4503599627370496 or 0)
end

local function drop_input(s, id)
  local row = call('HMGET', named('i', id), 'kind', 'turn')
  local kind, turn = row[1], row[2]
  call('DEL', named('i', id))
  call('ZREM', named('si', s.id), id)
  call('ZREM', named('r', s.id), id)
  call('ZREM', P .. 'due', id)
  call('HINCRBY', named('s', s.id), 'pending:' .. kind, -1)
  if turn ~= '' then
    call('HDEL', named('t', s.id), turn)
  end
  s.pending = s.pending - 1
  return turn
end

-- Hits

local function look_at_hits(limit)
  -- Microseconds until one more fits; the newest hit's number and time.
  local key = named('h', limit.key)
  local newest = call('ZREVRANGE', key, 0, 0, 'WITHSCORES')
  local row = call('ZREVRANGE', key, limit.limit - 1, limit.limit - 1, 'WITHSCORES')
  local at = row[2] and tonumber(row[2])
  local wait = 0
  -- One that lies further ahead was counted before the clock was set back; it must not lock its key.
  if at and at <= NOW + SLACK then
    wait = math.max(0, at + limit.window - NOW)
  end
  return wait, tonumber(newest[1] or '0'), tonumber(newest[2] or '0')
end

local function add_hit(limit, newest, newest_at)
  local key = named('h', limit.key)
  if newest_at > NOW + SLACK then
    call('ZREMRANGEBYSCORE', key, '(' .. text(NOW + SLACK), '+inf')
    newest_at = 0
  end
  -- Never before the newest: where the clock went back a little, hits still run out in their order.
  call('ZADD', key, math.max(NOW, newest_at), string.format('%016.0f', newest + 1))
  local gone = call('ZRANGEBYSCORE', key, '-inf', text(NOW - limit.window), 'LIMIT', 0, HIT_TIDY)
  if #gone > 0 then
    call('ZREMRANGEBYRANK', key, 0, #gone - 1)
  end
  call('PEXPIRE', key, text(math.ceil(limit.window / 1000) + SLACK / 1000))
end

local function read_limit()
  return { key = take(), limit = number(), window = number() }
end

-- Documents

local function version_of(kind, key)
  return tonumber(call('HGET', named('d', kind, key), 'version') or '0')
end

local function put(kind, key, body, groups)
  local name = named('d', kind, key)
  local row = call('HMGET', name, 'number', 'version', 'created', 'groups')
  local n, version, created = tonumber(row[1]), tonumber(row[2] or '0') + 1, tonumber(row[3])
  if not n then
    n, created = count('document'), NOW
    call('ZADD', named('k', kind), created, member(n, key))
  end
  local m, packed = member(n, key), cmsgpack.pack(groups)
  call('HSET', name, 'number', n, 'version', version, 'created', text(created), 'updated', text(NOW), 'groups', packed,
    'body', body)
  call('ZADD', named('u', kind), NOW, m)
  if packed ~= row[4] then
    for _, group in ipairs(row[4] and cmsgpack.unpack(row[4]) or {}) do
      call('ZREM', named('g', kind, group), m)
    end
    for _, group in ipairs(groups) do
      call('ZADD', named('g', kind, group), created, m)
    end
  end
end

local function delete(kind, key)
  local name = named('d', kind, key)
  local row = call('HMGET', name, 'number', 'groups')
  if not row[1] then
    return
  end
  local m = member(tonumber(row[1]), key)
  for _, group in ipairs(cmsgpack.unpack(row[2])) do
    call('ZREM', named('g', kind, group), m)
  end
  call('ZREM', named('k', kind), m)
  call('ZREM', named('u', kind), m)
  call('DEL', name)
end

local function document(kind, key)
  local row = call('HMGET', named('d', kind, key), 'version', 'created', 'updated', 'body')
  if not row[1] then
    return nil
  end
  return { key, unpack(row) }
end

local function documents(kind, keys)
  local found = {}
  for _, key in ipairs(keys) do
    found[#found + 1] = document(kind, key)
  end
  return found
end

-- Events

local function delta_prefix(message_id)
  return #message_id .. ':' .. message_id .. ':'
end

local function events_of(entries, each)
  for _, entry in ipairs(entries) do
    local seq = tonumber(string.match(entry[1], '^%d+'))
    local fields = entry[2] -- t, type, a, at, f, frame and, of a delta, m, message id
    if each(seq, fields[2], tonumber(fields[4]), fields[6], fields[8]) == false then
      return
    end
  end
end

local function append(s, events)
  local at, first = iso(NOW), s.last + 1
  local key = named('e', s.id)
  for _, event in ipairs(events) do
    s.last = s.last + 1
    local seq = text(s.last)
    local frame = '{"type":"' .. event.type .. '","seq":' .. seq .. ',"at":"' .. at .. '",' .. event.tail
    if event.message_id then
      call('XADD', key, seq .. '-0', 't', event.type, 'a', text(NOW), 'f', frame, 'm', event.message_id)
      call('ZADD', named('m', s.id), 0, delta_prefix(event.message_id) .. seq)
    else
      call('XADD', key, seq .. '-0', 't', event.type, 'a', text(NOW), 'f', frame)
    end
  end
  call('HSET', named('s', s.id), 'last', text(s.last))
  s.active = NOW
  if s.oldest == 0 then
    set_oldest(s, NOW)
  end
  return first
end

local function drop_deltas(s, message_ids)
  local key = named('m', s.id)
  for _, message_id in ipairs(message_ids) do
    local prefix = delta_prefix(message_id)
    local low, high = '[' .. prefix, '(' .. string.sub(prefix, 1, -2) .. ';'
    for _, entry in ipairs(call('ZRANGEBYLEX', key, low, high)) do
      call('XDEL', named('e', s.id), string.sub(entry, #prefix + 1) .. '-0')
    end
    call('ZREMRANGEBYLEX', key, low, high)
  end
end

local function cut(s, entries, gone)
  -- Remove the first `gone` of a log's entries.
  if gone == 0 then
    return
  end
  local last = 0
  local seen = 0
  events_of(entries, function(seq, _, _, _, message_id)
    if message_id then
      call('ZREM', named('m', s.id), delta_prefix(message_id) .. text(seq))
    end
    last, seen = seq, seen + 1
    return seen < gone
  end)
  call('XTRIM', named('e', s.id), 'MINID', text(last + 1) .. '-0')
end

-- The change

local function read_change()
  return {
    once = optional(function() return { key = take(), result = take() } end),
    fences = list(function() return { name = take(), holder = take(), epoch = take() } end),
    versions = list(function() return { kind = take(), key = take(), version = number() } end),
    session_id = optional(take),
    needs_open = take() == '1',
    opening = optional(function() return { token = take(), max_live = number() } end),
    activity = optional(function() return { max_live = number(), must_wake = take() == '1' } end),
    limit = optional(read_limit),
    add = optional(function()
      return { kind = take(), event = optional(number), seq = optional(number), key = take(), delay = number() }
    end),
    max_pending = optional(number),
    cancel = optional(take),
    start = optional(function() return { id = take(), turn = optional(take), takeovers = take() } end),
    answer = optional(take),
    postpone = optional(function() return { id = take(), delay = number() } end),
    close = take() == '1',
    drop = list(take),
    events = list(function() return { type = take(), tail = take(), message_id = optional(take) } end),
    puts = list(function() return { kind = take(), key = take(), body = take(), groups = list(take) } end),
    deletes = list(function() return { kind = take(), key = take() } end),
    wake = list(take),
  }
end

local function check_session(c)
  -- The session as it will be, and what refuses it.
  if not c.session_id then
    return nil
  end
  local s = session(c.session_id)
  if not c.opening then
    if c.needs_open and (not s or s.state == 'closed') then
      return nil, { 'no_session' }
    end
    if s and c.activity then
      if s.state == 'asleep' then
        if live() < c.activity.max_live then
          s.state = 'live'
        elseif c.activity.must_wake then
          return nil, { 'too_many_sessions', text(c.activity.max_live) }
        end
      end
      if s.state ~= 'closed' then
        s.active = NOW
      end
    end
    return s
  end
  if s then
    return nil, { 'session_exists' }
  end
  if live() >= c.opening.max_live then
    return nil, { 'too_many_sessions', text(c.opening.max_live) }
  end
  s = { id = c.session_id, token = c.opening.token, state = 'live', created = NOW, active = NOW, first = 1, last = 0 }
  s.served, s.oldest, s.pending, s.new = 0, 0, 0, true
  return s
end

local function check_inputs(c, s)
  if not s then
    return nil
  end
  local function is_its(id)
    return call('HGET', named('i', id), 'session') == s.id
  end
  if c.add and c.max_pending then
    local pending = tonumber(call('HGET', named('s', s.id), 'pending:' .. c.add.kind) or '0')
    if c.answer and is_its(c.answer) and call('HGET', named('i', c.answer), 'kind') == c.add.kind then
      pending = pending - 1
    end
    if pending >= c.max_pending then
      return { 'too_many_pending', text(pending) }
    end
  end
  if c.cancel and call('HEXISTS', named('t', s.id), c.cancel) == 0 then
    return { 'no_turn' }
  end
  if c.answer and not is_its(c.answer) or c.start and not is_its(c.start.id) then
    return { 'answered' }
  end
  return nil
end

local function add_input(c, s, first)
  local id = text(count('input'))
  local seq = c.add.seq and text(c.add.seq) or text(first + (c.add.event or 0))
  call('HSET', named('i', id), 'session', s.id, 'kind', c.add.kind, 'seq', seq, 'key', c.add.key, 'turn', '',
    'started', '0', 'takeovers', '0', 'cancelled', '0')
  call('ZADD', named('si', s.id), id, id)
  call('HINCRBY', named('s', s.id), 'pending:' .. c.add.kind, 1)
  s.pending = s.pending + 1
  -- What is due at once is so whatever the clock says later: it may be set back.
  if c.add.delay > 0 then
    call('ZADD', P .. 'due', NOW + c.add.delay, id)
  else
    call('ZADD', named('r', s.id), id, id)
  end
end

local function start_input(c, s, first)
  local id, turn = c.start.id, c.start.turn or ''
  local started = 0
  for i, event in ipairs(c.events) do
    if event.type == 'turn_started' then
      started = first + i - 1
      break
    end
  end
  local before = call('HGET', named('i', id), 'turn')
  if before ~= '' then
    call('HDEL', named('t', s.id), before)
  end
  if turn ~= '' then
    call('HSET', named('t', s.id), turn, id)
  end
  call('HSET', named('i', id), 'turn', turn, 'started', text(started), 'takeovers', c.start.takeovers, 'cancelled', '0')
  if call('ZSCORE', named('r', s.id), id) then
    call('ZADD', named('r', s.id), ready_score(id, turn), id)
  end
  if turn == '' then
    wake('inputs')
  end
end

local function write_inputs(c, s, first)
  if c.add then
    add_input(c, s, first)
    wake('inputs')
  end
  if c.start then
    start_input(c, s, first)
  end
  if c.answer then
    drop_input(s, c.answer)
    wake('inputs')
  end
  if c.postpone and call('HGET', named('i', c.postpone.id), 'session') == s.id then
    call('ZREM', named('r', s.id), c.postpone.id)
    call('ZADD', P .. 'due', NOW + c.postpone.delay, c.postpone.id)
  end
  if c.cancel then
    local id = call('HGET', named('t', s.id), c.cancel)
    if id then
      call('HSET', named('i', id), 'cancelled', '1')
    end
    wake('turn:' .. c.cancel)
  end
end

local function write_session(c, s)
  if s.new then
    s.number = count('session')
    s.member = member(s.number, s.id)
    call('HSET', named('s', s.id), 'number', s.number, 'token', s.token, 'created', text(NOW), 'first', 1, 'last', 0)
  end
  drop_deltas(s, c.drop)
  local first = 0
  if #c.events > 0 then
    first = append(s, c.events)
    wake('session:' .. s.id)
  end
  write_inputs(c, s, first)
  if c.close then
    s.state = 'closed'
    for _, id in ipairs(call('ZRANGE', named('si', s.id), 0, -1)) do
      local turn = drop_input(s, id)
      if turn ~= '' then
        wake('turn:' .. turn)
      end
    end
    wake('session:' .. s.id)
  end
  if s.new or c.activity or c.close or #c.events > 0 or c.add or c.answer then
    place(s)
  end
  if c.add or c.start or c.answer or c.postpone or c.close then
    offer(s)
  end
  return first
end

local function commit()
  local c = read_change()
  if c.once then
    local known = call('HMGET', named('o', c.once.key), 'seq', 'result')
    if known[1] then
      return { 'duplicate', known[1], known[2] }, false
    end
  end
  for _, fence in ipairs(c.fences) do
    if not is_holder(fence.name, fence.holder, fence.epoch) then
      return { 'lease_lost', fence.name }, false
    end
  end
  for _, wanted in ipairs(c.versions) do
    if version_of(wanted.kind, wanted.key) ~= wanted.version then
      return { 'stale', wanted.kind, wanted.key }, false
    end
  end
  local s, refused = check_session(c)
  if refused then
    return refused, false
  end
  local wait, newest, newest_at = 0, 0, 0
  if c.limit then
    wait, newest, newest_at = look_at_hits(c.limit)
    if wait > 0 then
      return { 'rate_limited', text(wait) }, false
    end
  end
  refused = check_inputs(c, s)
  if refused then
    return refused, false
  end

  -- From here on nothing is refused.
  for _, topic in ipairs(c.wake) do
    wake(topic)
  end
  if c.limit then
    add_hit(c.limit, newest, newest_at)
  end
  local first = 0
  if s then
    first = write_session(c, s)
  end
  for _, p in ipairs(c.puts) do
    put(p.kind, p.key, p.body, p.groups)
  end
  for _, d in ipairs(c.deletes) do
    delete(d.kind, d.key)
  end
  if c.once then
    call('HSET', named('o', c.once.key), 'seq', text(first), 'result', c.once.result)
    call('ZADD', P .. 'once', NOW, c.once.key)
  end
  return { 'ok', text(first) }, true
end

-- What else is written

local writes = { commit = commit }

function writes.claim()
  local holder, ttl, unwanted, but = take(), number(), list(take), {}
  for _, id in ipairs(unwanted) do
    but[id] = true
  end
  for _, id in ipairs(call('ZRANGEBYSCORE', P .. 'due', '-inf', text(NOW), 'LIMIT', 0, BATCH)) do
    call('ZREM', P .. 'due', id)
    local found = input(id)
    if found then
      call('ZADD', named('r', found[2]), ready_score(id, found[6]), id)
      offer(session(found[2]))
    end
  end
  local ended = call('ZRANGEBYSCORE', P .. 'parked', '-inf', text(NOW), 'LIMIT', 0, BATCH)
  -- And one whose lease seems to last longest: the clock may have been set back.
  ended[#ended + 1] = call('ZREVRANGE', P .. 'parked', 0, 0)[1]
  for _, m in ipairs(ended) do
    offer(session(name_of(m)))
  end
  local m
  for _, one in ipairs(call('ZRANGE', P .. 'ready', 0, #unwanted)) do
    if not m and not but[name_of(one)] then
      m = one
    end
  end
  if not m then
    return { 'none' }, false
  end
  local s = session(name_of(m))
  local found = input(call('ZRANGE', named('r', s.id), 0, 0)[1])
  s.served = NOW
  call('HSET', named('s', s.id), 'served', text(NOW))
  local epoch = take_lease('session:' .. s.id, holder, ttl)
  return { 'ok', text(epoch), unpack(found) }, true
end

function writes.acquire()
  local name, holder, ttl = take(), take(), number()
  if held_until(name) then
    return { 'none' }, false
  end
  return { 'ok', text(take_lease(name, holder, ttl)) }, true
end

function writes.renew()
  local ttl = number()
  local lost = { 'ok' }
  for i, lease in ipairs(list(function() return { name = take(), holder = take(), epoch = take() } end)) do
    if is_holder(lease.name, lease.holder, lease.epoch) then
      call('HSET', named('l', lease.name), 'expires', text(NOW + ttl), 'ttl', text(ttl))
      lease_moved(lease.name, NOW + ttl)
    else
      lost[#lost + 1] = text(i - 1)
    end
  end
  return lost, false
end

function writes.release()
  local name, holder, epoch = take(), take(), take()
  if is_holder(name, holder, epoch) then
    -- Its key stays, with no holder: an epoch must never be given twice.
    call('HSET', named('l', name), 'holder', '', 'expires', '0')
    lease_moved(name, 0)
    if string.sub(name, 1, 8) == 'session:' then
      wake('inputs')
    end
  end
  return { 'ok' }, false
end

function writes.hit()
  local limit = read_limit()
  local wait, newest, newest_at = look_at_hits(limit)
  if wait > 0 then
    return { 'ok', text(wait) }, false
  end
  add_hit(limit, newest, newest_at)
  return { 'ok', '0' }, true
end

function writes.take_hit()
  local limit = read_limit()
  local _, newest, at = look_at_hits(limit)
  if newest == 0 or at > NOW + SLACK or at + limit.window <= NOW then
    return { 'none' }, false
  end
  call('ZPOPMAX', named('h', limit.key))
  return { 'ok' }, true
end

function writes.sleep()
  local ids, before = list(take), number()
  local holds, at_most = list(function() return { kind = take(), prefix = take() } end), number()
  local slept = { 'ok' }
  for _, id in ipairs(ids) do
    if #slept > at_most then
      break
    end
    local s = session(id)
    local stays = not s or s.state ~= 'live' or s.active >= before or s.pending > 0
    for _, hold in ipairs(holds) do
      stays = stays or call('EXISTS', named('g', hold.kind, hold.prefix .. id)) == 1
    end
    if not stays then
      s.state = 'asleep'
      place(s)
      slept[#slept + 1] = id
    end
  end
  return slept, #slept > 1
end

function writes.forget()
  local before = number()
  local keys = call('ZRANGEBYSCORE', P .. 'once', '-inf', '(' .. text(before), 'LIMIT', 0, FORGET_MAX)
  for _, key in ipairs(keys) do
    call('DEL', named('o', key))
    call('ZREM', P .. 'once', key)
  end
  -- Workers' names are never used again, so their epochs may begin anew.
  for _, name in ipairs(call('ZRANGEBYSCORE', P .. 'workers', '-inf', '(' .. text(NOW - DAY), 'LIMIT', 0, FORGET_MAX)) do
    call('DEL', named('l', name))
    call('ZREM', P .. 'workers', name)
  end
  return { 'ok', text(#keys) }, true
end

function writes.remove()
  local id, limit = take(), number()
  local s = session(id)
  if not s then
    return { 'ok', '1' }, false
  end
  if s.state ~= 'closed' then
    return { 'ok', '0' }, false
  end
  local key = named('e', id)
  local entries = call('XRANGE', key, '-', '+', 'COUNT', limit)
  if #entries >= limit then
    cut(s, entries, #entries)
    -- A reader that comes meanwhile is told where the log begins.
    local first = s.last + 1
    events_of(call('XRANGE', key, '-', '+', 'COUNT', 1), function(seq) first = seq end)
    call('HSET', named('s', id), 'first', text(first))
    return { 'ok', '0' }, true
  end
  -- The name is never used again, so its lease's epochs need not be remembered.
  call('DEL', key, named('s', id), named('m', id), named('si', id), named('r', id), named('t', id),
    named('l', 'session:' .. id))
  call('ZREM', P .. 'state:closed', s.member)
  return { 'ok', '1' }, true
end

function writes.trim()
  local id, before, keep_from, limit = take(), number(), optional(number), number()
  local s = session(id)
  if not s or s.state == 'closed' then
    return { 'ok', '0' }, false
  end
  local stop = math.min(s.last + 1, keep_from or s.last + 1)
  for _, input_id in ipairs(call('ZRANGE', named('si', id), 0, -1)) do
    local row = call('HMGET', named('i', input_id), 'seq', 'turn', 'started')
    stop = math.min(stop, tonumber(row[1]))
    if row[2] ~= '' and row[3] ~= '0' then
      stop = math.min(stop, tonumber(row[3]))
    end
  end
  local entries = call('XRANGE', named('e', id), '-', '+', 'COUNT', limit + 1)
  local gone, first, oldest = 0, s.last + 1, nil
  events_of(entries, function(seq, _, at)
    if gone < limit and seq < stop and at < before then
      gone = gone + 1
      return true
    end
    first, oldest = seq, at
    return false
  end)
  cut(s, entries, gone)
  if oldest and oldest < before and gone < limit then
    oldest = NOW -- it is still needed
  end
  call('HSET', named('s', id), 'first', text(math.max(s.first, first)))
  set_oldest(s, oldest)
  return { 'ok', text(gone) }, true
end

function writes.check()
  call('SET', P .. 'check', text(NOW))
  call('DEL', P .. 'check')
  return { 'ok' }, false
end

-- What is read

local reads = {}

function reads.events()
  local id, after, limit, page_bytes = take(), take(), number(), number()
  local types, narrowed = {}, false
  for _, type in ipairs(list(take)) do
    types[type], narrowed = true, true
  end
  local found, size, from, step = {}, 0, '(' .. after .. '-0', 8
  while #found < 3 * limit and size <= page_bytes do
    local entries = call('XRANGE', named('e', id), from, '+', 'COUNT', narrowed and step or
      math.min(step, limit - #found / 3))
    events_of(entries, function(seq, type, _, frame)
      if not narrowed or types[type] then
        found[#found + 1], found[#found + 2], found[#found + 3] = text(seq), type, frame
        size = size + #frame
      end
      return #found < 3 * limit and size <= page_bytes
    end)
    if #entries < step then
      break
    end
    from, step = '(' .. entries[#entries][1], math.min(2 * step, 256)
  end
  return found
end

function reads.session()
  return told(take()) or {}
end

function reads.sessions()
  local limit, state = number(), optional(take)
  local found = {}
  for _, one in ipairs(state and { state } or { 'live', 'asleep' }) do
    local page = call('ZREVRANGE', P .. 'state:' .. one, 0, limit - 1, 'WITHSCORES')
    for i = 1, #page, 2 do
      found[#found + 1] = { tonumber(page[i + 1]), page[i] }
    end
  end
  table.sort(found, function(a, b)
    if a[1] ~= b[1] then
      return a[1] > b[1]
    end
    return a[2] > b[2]
  end)
  local ids = {}
  for i = 1, math.min(limit, #found) do
    ids[i] = name_of(found[i][2])
  end
  return all_told(ids)
end

local function aged(key)
  local limit, before = number(), optional(take)
  local since, past = optional(number), optional(take)
  if past then
    local n = call('HGET', named('s', past), 'number')
    -- One that is gone had the place of the last of its time.
    past = n and member(tonumber(n), past) or member(9999999999999999, '')
  end
  return all_told(after_in(key, since, past, before, limit))
end

function reads.idle_sessions()
  return aged(P .. 'idle')
end

function reads.closed_sessions()
  return aged(P .. 'state:closed')
end

function reads.aged_sessions()
  local limit, before = number(), take()
  return call('ZRANGEBYSCORE', P .. 'oldest', '-inf', '(' .. before, 'LIMIT', 0, limit)
end

function reads.live_sessions()
  return { text(live()) }
end

function reads.pending()
  local found = {}
  for _, id in ipairs(call('ZRANGE', named('si', take()), 0, -1)) do
    found[#found + 1] = input(id)
  end
  return found
end

function reads.get()
  local kind, key = take(), take()
  return document(kind, key) or {}
end

function reads.find()
  local kind, group, limit, before = take(), take(), number(), optional(take)
  local key = group ~= '' and named('g', kind, group) or named('k', kind)
  local keys = {}
  for i, m in ipairs(call('ZREVRANGEBYSCORE', key, before and '(' .. before or '+inf', '-inf', 'LIMIT', 0, limit)) do
    keys[i] = name_of(m)
  end
  return documents(kind, keys)
end

function reads.find_stale()
  local kind, before, limit = take(), take(), number()
  local since, past = optional(number), optional(take)
  if past then
    past = member(tonumber(call('HGET', named('d', kind, past), 'number') or '0'), past)
  end
  return documents(kind, after_in(named('u', kind), since, past, before, limit))
end

function reads.held()
  return { held_until(take()) and '1' or '0' }
end

function reads.announced()
  return { call('HGET', P .. 'counters', 'announced') or '0' }
end

-- The calls

local function begin(keys, args)
  local time = call('TIME')
  P, ARGS, AT, TOPICS = keys[1] .. ':', args, 0, {}
  NOW = tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local function announce(sender)
  if #TOPICS == 0 then
    return
  end
  local parts, known = { text(count('announced')), ';', sender, ';' }, {}
  for _, topic in ipairs(TOPICS) do
    if not known[topic] then
      known[topic] = true
      parts[#parts + 1] = #topic .. ':' .. topic
    end
  end
  call('PUBLISH', P .. 'wake', table.concat(parts))
end

local function write(keys, args)
  begin(keys, args)
  local operation, id, sender = take(), take(), take()
  local known = call('GET', named('a', id))
  if known then
    return cmsgpack.unpack(known)
  end
  local reply, lasting = writes[operation]()
  announce(sender)
  local answer = { TOPICS, reply }
  if lasting then
    call('SET', named('a', id), cmsgpack.pack(answer), 'PX', ANSWER_MS)
  end
  return answer
end

local function read(keys, args)
  begin(keys, args)
  return reads[take()]()
end

redis.register_function(NAME, write)
redis.register_function({ function_name = NAME .. '_read', callback = read, flags = { 'no-writes' } })
