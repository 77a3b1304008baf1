// What is known of the open session and of the bridge, from events. Views subscribe and are told once a frame.
//
// state = {
//   bridge:     {health?, access: 'unknown' | 'ok' | 'needed' | 'refused', sessions: [as GET /sessions] | null}
//   session:    null, or {id, agent?, limits?, firstSeq, lastSeq, goal?, toldSeq, oldest, loading}
//               `oldest`: number of the first event that is here; `toldSeq`: what had happened before it
//               was opened; `goal`: what has happened by now and is being told, as of the last welcome
//   connection: as connection.js reports, {is: 'none'} without a session
//   outbox:     messages that are not confirmed yet, [{id, text, state, until?, why?}]
//   chat, healing: what reducers make of the events, see chat-state.js and healing-state.js
// }
// A reducer is {initial(), apply(state, event)}. It changes its own part in place, and depends on nothing but the two.

const HIDDEN_MS = 300;

export function createStore(reducers) {
  const subscribers = new Set();
  let events = [];
  let due = false;
  const state = {
    bridge: { health: null, access: 'unknown', sessions: null },
    session: null,
    connection: { is: 'none' },
    outbox: [],
  };
  reset();

  function reset() {
    for (const [part, reducer] of Object.entries(reducers)) state[part] = reducer.initial();
  }

  function apply(event) {
    for (const [part, reducer] of Object.entries(reducers)) reducer.apply(state[part], event);
  }

  function rebuild(next, seed) {
    events = next;
    state.session.oldest = events[0].seq;
    reset();
    seed(state);
    events.forEach(apply);
    changed();
  }

  function changed() {
    if (due) return;
    due = true;
    // No frames are drawn of a page that nobody sees; its title still tells.
    if (document.hidden) setTimeout(tell, HIDDEN_MS);
    else requestAnimationFrame(tell);
  }

  function tell() {
    due = false;
    for (const told of subscribers) {
      // A view that fails takes no other along.
      try {
        told(state);
      } catch (error) {
        reportError(error);
      }
    }
  }

  return {
    get state() {
      return state;
    },

    /** All events that are here, oldest first. Not to be changed. */
    get events() {
      return events;
    },

    /** Calls `told(state)` now and after changes, once a frame; gives a function that ends that. */
    subscribe(told) {
      subscribers.add(told);
      told(state);
      return () => subscribers.delete(told);
    },

    /** Replaces parts of the state: `set({connection})`. */
    set(parts) {
      Object.assign(state, parts);
      changed();
    },

    /** Forget everything of the session that was open; `session` is the next one's, or `null`. */
    open(session) {
      events = [];
      reset();
      Object.assign(state, { session, connection: { is: 'none' }, outbox: [] });
      changed();
    },

    /** One event, newer than all that are here; others are old news. */
    take(event) {
      const { session } = state;
      if (!session || event.seq <= session.lastSeq) return;
      session.lastSeq = event.seq;
      session.oldest ??= event.seq;
      events.push(event);
      if (event.type === 'assistant_message') dropDeltas(event.data.messageId);
      apply(event);
      changed();
    },

    /** Lets go of all but the last events; `seed` as below. */
    keepLast(count, seed) {
      rebuild(events.slice(-count), seed);
    },

    /**
     * Events before all that are here. What was made of the later ones is made again, now that it is known what led
     * there. `seed(state)` says first what is known from elsewhere.
     */
    takeOlder(older, seed) {
      rebuild([...older, ...events], seed);
    },
  };

  // As the journal does: the whole message has come, its pieces are void.
  function dropDeltas(messageId) {
    for (let i = events.length - 2; i >= 0 && events[i].type !== 'turn_started'; i--) {
      if (events[i].type === 'assistant_delta' && events[i].data.messageId === messageId) events.splice(i, 1);
    }
  }
}
