// One session's WebSocket, kept open: it says hello, follows the events from the last number, and comes back when it ends.
//
// It reports what it is as one of
//   {is: 'connecting'}  {is: 'live'}  {is: 'waiting', until, why}  {is: 'offline'}  {is: 'over', code, why}
// `until` is a time in ms; after `over` only `retry()` begins again.

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 15_000;
const ANSWER_MS = 10_000;
const RESTART = 1012;
const FULL = 1013;
/** The browser's own: a handshake that was refused, or a network that is gone. */
const NO_ANSWER = 1006;
const WHY_OVER = {
  1000: 'This session has ended.',
  4400: 'The bridge does not understand this page. Reload it.',
  4401: 'The token of this session is missing or wrong.',
  4404: 'There is no such session.',
  4409: 'This session was opened in more than five tabs, so this one was let go.',
};

/**
 * @param hello gives the fields of each `hello`: `{sessionId, token, after}`.
 * @param onFrame gets every frame but `pong` and `server_shutdown`.
 * @param onStatus gets what it is now.
 */
export function connect({ hello, onFrame, onStatus }) {
  let socket = null;
  let tries = 0;
  let timer = 0;
  let beat = 0;
  let [heardAt, askedAt] = [0, 0];
  let told = {};
  let welcomed = false;
  let status = {};
  let ended = false;

  function report(next) {
    status = next;
    onStatus(next);
  }

  function open() {
    clearTimeout(timer);
    if (ended) return;
    if (navigator.onLine === false) {
      report({ is: 'offline' });
      return;
    }
    report({ is: 'connecting' });
    told = {};
    welcomed = false;
    const address = new URL('ws', document.baseURI);
    address.protocol = address.protocol === 'https:' ? 'wss:' : 'ws:';
    const own = new WebSocket(address);
    socket = own;
    timer = setTimeout(() => lost(own, NO_ANSWER), ANSWER_MS);
    own.onopen = () => own.send(JSON.stringify({ type: 'hello', ...hello() }));
    own.onmessage = (message) => socket === own && take(JSON.parse(message.data));
    own.onclose = (event) => lost(own, event.code);
  }

  function take(frame) {
    heardAt = performance.now();
    if (frame.type === 'welcome') {
      clearTimeout(timer);
      tries = 0;
      welcomed = true;
      askedAt = 0;
      listen(frame.limits?.pingIntervalSeconds || 30);
      // The state that comes with it first: what is shown as live is up to date.
      onFrame(frame);
      report({ is: 'live' });
    } else if (frame.type === 'server_shutdown') {
      told = { ...frame.reconnect };
    } else if (frame.type === 'error') {
      told = { ...told, retryAfterMs: (frame.retryAfter ?? 0) * 1000, message: frame.message };
      onFrame(frame);
    } else if (frame.type !== 'pong') {
      onFrame(frame);
    }
  }

  // A network that is gone says nothing. Nor does a bridge that has nothing to say, so it is asked.
  function listen(everyS) {
    clearInterval(beat);
    beat = setInterval(() => {
      const now = performance.now();
      // Asked, and nothing heard since: how late this looks does not matter, as in a tab that is seldom let run.
      if (askedAt > heardAt && now - askedAt > ANSWER_MS) lost(socket, NO_ANSWER);
      else if (now - heardAt > everyS * 500 && askedAt <= heardAt && socket?.readyState === WebSocket.OPEN) {
        askedAt = now;
        socket.send('{"type":"ping"}');
      }
    }, (everyS * 1000) / 2);
  }

  function lost(which, code) {
    if (which !== socket || which === null) return;
    socket = null;
    clearInterval(beat);
    clearTimeout(timer);
    which.close();
    if (ended) return;
    if (code in WHY_OVER) {
      report({ is: 'over', code, why: WHY_OVER[code] });
    } else if (navigator.onLine === false) {
      report({ is: 'offline' });
    } else {
      const waitMs = pause(code);
      report({ is: 'waiting', until: Date.now() + waitMs, why: why(code) });
      timer = setTimeout(open, waitMs);
      if (!welcomed && code === NO_ANSWER) explain();
    }
  }

  // A browser does not say why a handshake was refused. Where the bridge answers otherwise, it was not the network.
  async function explain() {
    const about = status;
    try {
      const answer = await fetch(new URL('healthz', document.baseURI), { cache: 'no-store' });
      if (answer.ok && status === about) report({ ...about, why: 'The bridge takes no more connections just now.' });
    } catch {
      // It is as it was said.
    }
  }

  function pause(code) {
    if (code === RESTART && told.afterMs !== undefined) return told.afterMs + Math.random() * told.jitterMs;
    const grown = Math.min(FIRST_WAIT_MS * 2 ** tries++, LONGEST_WAIT_MS);
    const waitMs = grown / 2 + (Math.random() * grown) / 2;
    return code === FULL ? Math.max(waitMs, told.retryAfterMs ?? 0) : waitMs;
  }

  function why(code) {
    if (code === RESTART) return 'The bridge restarts.';
    if (code === FULL) return told.message ?? 'The bridge is full.';
    if (welcomed) return 'The connection was lost.';
    return code === NO_ANSWER ? 'The bridge cannot be reached.' : told.message ?? 'The bridge let the connection go.';
  }

  const now = () => {
    if (status.is === 'waiting' || status.is === 'offline') open();
  };
  const gone = () => {
    if (socket && status.is !== 'over') lost(socket, NO_ANSWER);
    else if (status.is === 'waiting') {
      clearTimeout(timer);
      report({ is: 'offline' });
    }
  };
  // A page that was asleep may hold a socket that is long dead, or wait for a time that has passed.
  const seen = () => {
    if (document.hidden) return;
    if (status.is === 'waiting' && Date.now() >= status.until) open();
    else if (status.is === 'live' && socket?.readyState !== WebSocket.OPEN) lost(socket, NO_ANSWER);
  };
  addEventListener('online', now);
  addEventListener('offline', gone);
  document.addEventListener('visibilitychange', seen);
  open();

  return {
    /** Now, instead of at the end of the wait. */
    retry() {
      if (status.is === 'live' || status.is === 'connecting') return;
      tries = 0;
      open();
    },
    close() {
      ended = true;
      clearTimeout(timer);
      clearInterval(beat);
      removeEventListener('online', now);
      removeEventListener('offline', gone);
      document.removeEventListener('visibilitychange', seen);
      const last = socket;
      socket = null;
      last?.close(1000);
    },
  };
}
