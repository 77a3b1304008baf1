// What the chat shows, from events: a list of items, each with a key that stays and a `rev` that grows when it changes.
//
// kinds: user {text, state: queued | answering | answered}, assistant {text, streaming, isRepair},
//        tool {tool, input, ok?, summary?, rule?}, turn {outcome, durationMs, costUsd?, error?, isRepair},
//        failure {workflowId, workflowName, message, node?, count, repairId?}, repair {repairId},
//        registered, autonomy, rolledBack {workflowId, …}, notice {level, text}, closed {reason}

export const initial = () => ({
  items: [],
  byKey: new Map(),
  /** User messages that have no answer yet, oldest first: the order in which turns take them. */
  unanswered: [],
  /** Turns that run, by id. */
  turns: new Map(),
});

export function apply(chat, event) {
  on[event.type]?.(chat, event.data ?? {}, event);
}

function item(chat, key, event, made) {
  const found = chat.byKey.get(key);
  if (found) return change(found, made);
  const fresh = { key, rev: 1, seq: event.seq, at: event.at, turnId: event.turnId, ...made };
  chat.byKey.set(key, fresh);
  chat.items.push(fresh);
  return fresh;
}

function change(found, made) {
  found.rev += 1;
  return Object.assign(found, made);
}

const isRepair = (chat, event) => chat.turns.get(event.turnId)?.kind === 'repair';

const on = {
  user_message(chat, data, event) {
    const { text, clientMessageId } = data;
    chat.unanswered.push(item(chat, `u${event.seq}`, event, { kind: 'user', text, clientMessageId, state: 'queued' }));
  },

  turn_started(chat, { kind }, event) {
    const message = kind === 'chat' ? chat.unanswered[0] : undefined;
    if (message) change(message, { state: 'answering' });
    chat.turns.set(event.turnId, { kind, message, repairId: event.repairId, at: event.at });
  },

  assistant_delta(chat, { messageId, text }, event) {
    const key = `m${messageId}`;
    const before = chat.byKey.get(key)?.text ?? '';
    item(chat, key, event, { kind: 'assistant', text: before + text, streaming: true, isRepair: isRepair(chat, event) });
  },

  assistant_reset(chat, { messageId }) {
    const found = chat.byKey.get(`m${messageId}`);
    if (found) change(found, { text: '', streaming: false });
  },

  assistant_message(chat, { messageId, text }, event) {
    item(chat, `m${messageId}`, event, { kind: 'assistant', text, streaming: false, isRepair: isRepair(chat, event) });
  },

  tool_started(chat, { tool, toolUseId, input }, event) {
    item(chat, `t${toolUseId}`, event, { kind: 'tool', tool, input });
  },

  tool_finished(chat, { tool, toolUseId, ok, summary }, event) {
    item(chat, `t${toolUseId}`, event, { kind: 'tool', tool, ok, summary });
  },

  tool_refused(chat, { tool, toolUseId, rule }, event) {
    item(chat, `t${toolUseId}`, event, { kind: 'tool', tool, ok: false, rule });
  },

  turn_finished(chat, data, event) {
    const turn = chat.turns.get(event.turnId);
    chat.turns.delete(event.turnId);
    const again = data.outcome === 'interrupted';
    if (turn?.message) change(turn.message, { state: again ? 'queued' : 'answered' });
    if (turn?.message && !again) chat.unanswered = chat.unanswered.filter((one) => one !== turn.message);
    for (const one of chat.items.slice(-50)) {
      // A tool whose end was not told has none.
      if (one.turnId === event.turnId && one.kind === 'tool' && one.ok === undefined) change(one, { ok: null });
    }
    item(chat, `end${event.turnId}`, event, { kind: 'turn', ...data, isRepair: turn?.kind === 'repair' });
  },

  workflow_error(chat, data, event) {
    const { workflowId, workflowName, signature, repeatCount, error = {}, execution } = data;
    // Those that came while one repair was open are one thing to look at.
    const key = `f${event.repairId ?? `${workflowId}:${signature}`}`;
    const made = { workflowId, workflowName, repairId: event.repairId, count: repeatCount, message: error.message };
    item(chat, key, event, { kind: 'failure', ...made, node: execution?.lastNodeExecuted ?? error.node?.name });
  },

  workflow_registered: (chat, data, event) => item(chat, `e${event.seq}`, event, { kind: 'registered', ...data }),
  autonomy_changed: (chat, data, event) => item(chat, `e${event.seq}`, event, { kind: 'autonomy', ...data }),
  rolled_back: (chat, data, event) => item(chat, `e${event.seq}`, event, { kind: 'rolledBack', ...data }),
  notice: (chat, data, event) => item(chat, `e${event.seq}`, event, { kind: 'notice', ...data }),
  session_closed: (chat, data, event) => item(chat, `e${event.seq}`, event, { kind: 'closed', ...data }),
};

// A repair is one item, where it began, whatever becomes of it; what it shows is in the healing part of the state.
for (const type of ['started', 'diagnosed', 'proposed', 'waiting', 'decided', 'verified', 'unverified', 'published', 'failed', 'blocked']) {
  on[`repair_${type}`] = (chat, data, event) => {
    const repairId = data.repairId ?? event.repairId ?? `${data.workflowId}:${data.signature ?? ''}`;
    item(chat, `r${repairId}`, event, { kind: 'repair', repairId });
  };
}
