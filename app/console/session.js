// One open session: its connection, its history in pieces, and the messages that are on their way. It feeds the store.

import * as api from './api.js';
import { connect } from './connection.js';
import { announce } from './dialogs.js';
import * as healing from './healing-state.js';
import * as kept from './kept.js';

const FIRST_EVENTS = 300;
const OLDER_EVENTS = 500;
const PIECE_EVENTS = 1000;
/** A page that is open for weeks keeps this many, and drops the older half when it has them. */
const MOST_EVENTS = 20_000;
const AGAIN_MS = 3000;
/** Close codes of a session that is no more. */
const ENDED = [1000, 4404];

export function openSession(store, id) {
  let connection = null;
  let timer = 0;
  let sending = false;
  let closed = false;

  store.open({ id, firstSeq: 0, lastSeq: 0, toldSeq: 0, oldest: null, loading: true });
  const session = store.state.session;
  const seed = (state) => healing.welcome(state.healing, session);
  const mine = () => store.state.session === session && !closed;
  showOutbox();
  begin();
  const unwatch = kept.watch((key) => key === `outbox.${id}` && mine() && showOutbox());

  // Only the last events are asked for: a long session is shown as fast as a short one.
  async function begin() {
    report({ is: 'connecting' });
    try {
      const found = await api.inSession(id, 'GET');
      if (!mine()) return;
      session.firstSeq = found.firstSeq;
      session.lastSeq = Math.max(0, found.lastSeq - FIRST_EVENTS);
      session.workflows = found.workflows;
      healing.welcome(store.state.healing, session);
    } catch (error) {
      if (!mine()) return;
      if (error.status && error.status < 500 && error.status !== 429) {
        over(error);
        return;
      }
      // The connection says in its own way that nobody answers; it asks for all there is.
    }
    const sent = () => ({ sessionId: id, token: api.tokenOf(id) ?? undefined, after: session.lastSeq });
    connection = connect({ hello: sent, onFrame: take, onStatus: report });
  }

  function over(error) {
    const code = error.status === 401 ? 4401 : 4404;
    session.loading = false;
    report({ is: 'over', code, why: error.message });
  }

  function report(status) {
    if (!mine()) return;
    store.set({ connection: status });
    if (status.is === 'live') send();
    if (status.is === 'over' && ENDED.includes(status.code) && kept.sessions()[id]) kept.keepSession(id, { gone: true });
  }

  function take(frame) {
    if (!mine()) return;
    if (frame.type === 'welcome') welcome(frame);
    else if (frame.seq) {
      store.take(frame);
      settle(frame);
      if (store.events.length > MOST_EVENTS) {
        session.workflows = [...store.state.healing.workflows.values()];
        store.keepLast(MOST_EVENTS / 2, seed);
      }
    }
  }

  function welcome(frame) {
    const { agent, limits, firstSeq, lastSeq, workflows } = frame;
    Object.assign(session, { agent, limits, firstSeq, workflows, loading: false });
    session.toldSeq ||= lastSeq;
    session.goal = lastSeq;
    healing.welcome(store.state.healing, session);
    kept.keepSession(id, { at: Date.now() });
    store.set({ session });
  }

  // -- history

  async function loadOlder() {
    const oldest = session.oldest ?? session.lastSeq + 1;
    if (session.loading || oldest <= session.firstSeq) return;
    session.loading = true;
    store.set({ session });
    try {
      // Numbers have gaps: where a piece holds nothing new the one before it is asked for.
      for (let after = Math.max(0, oldest - 1 - OLDER_EVENTS); ; after = Math.max(0, after - PIECE_EVENTS)) {
        const answer = await api.inSession(id, 'GET', `/events?after=${after}&limit=${PIECE_EVENTS}`);
        if (!mine()) return;
        const found = answer.events.filter((event) => event.seq < oldest);
        if (found.length) store.takeOlder(found, seed);
        else if (after === 0) session.oldest = session.firstSeq;
        if (found.length || after === 0) break;
      }
    } catch (error) {
      if (mine()) announce(`What was earlier cannot be shown: ${error.message}`, { seen: true });
    }
    session.loading = false;
    store.set({ session });
  }

  // -- messages

  function showOutbox() {
    const before = new Map(store.state.outbox.map((message) => [message.id, message]));
    const held = kept.outbox(id).map((message) => ({ state: 'waiting', ...before.get(message.id), ...message }));
    store.set({ outbox: held });
  }

  function mark(messageId, changes) {
    store.set({ outbox: store.state.outbox.map((one) => (one.id === messageId ? { ...one, ...changes } : one)) });
  }

  function drop(messageId) {
    kept.keepOutbox(id, kept.outbox(id).filter((one) => one.id !== messageId));
    showOutbox();
  }

  // Its number came back, by whichever way was faster.
  function settle(event) {
    if (event.type !== 'user_message') return;
    const { clientMessageId, text } = event.data;
    if (!kept.sessions()[id]?.first) kept.keepSession(id, { first: text.slice(0, 80) });
    if (store.state.outbox.some((one) => one.id === clientMessageId)) drop(clientMessageId);
  }

  // One after the other, so that they keep their order; the same id twice is said once.
  async function send() {
    clearTimeout(timer);
    if (sending || !mine()) return;
    sending = true;
    try {
      // One that was refused waits for the person, and the others not for it.
      const first = () => store.state.outbox.find((one) => one.state !== 'refused');
      for (let next = first(); next && mine(); next = first()) {
        mark(next.id, { state: 'sending', until: undefined });
        try {
          await api.inSession(id, 'POST', '/messages', { text: next.text, clientMessageId: next.id });
          if (mine()) drop(next.id);
        } catch (error) {
          if (!mine() || postpone(next, error)) break;
        }
      }
    } finally {
      sending = false;
    }
  }

  /** Whether it is tried again by itself. */
  function postpone(message, error) {
    const isPassing = error.status === 0 || error.status === 429 || error.status >= 500;
    if (isPassing) {
      const waitMs = error.retryAfterS ? error.retryAfterS * 1000 : AGAIN_MS;
      mark(message.id, { state: 'waiting', code: error.code, why: error.message, until: Date.now() + waitMs });
      timer = setTimeout(send, waitMs);
    } else {
      mark(message.id, { state: 'refused', why: error.message });
    }
    return isPassing;
  }

  return {
    id,
    loadOlder,
    /** Takes it for sending; it stays here, over reloads too, until the bridge has it. */
    say(text) {
      kept.keepOutbox(id, [...kept.outbox(id), { id: api.newId(), text }]);
      showOutbox();
      send();
    },
    /** Gives up a message that could not be sent. */
    discard: drop,
    resend(messageId) {
      mark(messageId, { state: 'waiting' });
      send();
    },
    command: (type, fields) => api.command(id, type, fields),
    retry: () => connection?.retry(),
    close() {
      closed = true;
      clearTimeout(timer);
      unwatch();
      connection?.close();
    },
  };
}
