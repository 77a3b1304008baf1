// Requests to the bridge, with the right token, and its problems as errors that say what happened.

import * as kept from './kept.js';

const LIMIT_MS = 40_000;

/** What went wrong: `status` (0: no answer), the public `code`, `message` for people, `retryAfterS`, all `fields`. */
export class ApiError extends Error {
  constructor(status, problem, retryAfterS) {
    super(problem.detail || problem.title || 'The bridge did not say why.');
    this.status = status;
    this.code = problem.code ?? 'unknown';
    this.retryAfterS = retryAfterS;
    this.fields = problem;
  }
}

/** `GET`, or whatever `method` says, of a path below the page's own address; gives the decoded JSON, or text. */
export async function call(method, path, body, token) {
  const headers = {};
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  let answer, text;
  try {
    const sent = { method, headers, body: body === undefined ? undefined : JSON.stringify(body) };
    answer = await fetch(new URL(path, document.baseURI), { ...sent, cache: 'no-store', signal: AbortSignal.timeout(LIMIT_MS) });
    text = await answer.text();
  } catch {
    throw new ApiError(0, { code: 'no_answer', detail: 'The bridge does not answer.' });
  }
  const is = answer.headers.get('Content-Type') ?? '';
  const value = is.includes('json') ? decoded(text) : text;
  if (answer.ok) return value;
  const problem = value && typeof value === 'object' ? value : {};
  throw new ApiError(answer.status, problem, Number(answer.headers.get('Retry-After')) || undefined);
}

function decoded(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** With the access token where this browser has one; what needs it: the list of sessions, dead letters, the brake. */
export const asOperator = (method, path, body) => call(method, path, body, kept.accessToken());

/** The token that opens a session: its own, else the access token. */
export const tokenOf = (id) => kept.sessions()[id]?.token ?? kept.accessToken();

/** Below one session: `inSession(id, 'GET', '/repairs')`. */
export const inSession = (id, method, path = '', body = undefined) =>
  call(method, `sessions/${encodeURIComponent(id)}${path}`, body, tokenOf(id));

/** A command of the wire contract: `command(id, 'approve', {repairId})`. Refused ones are an `ApiError` (404, 409). */
export const command = (id, type, fields = {}) => inSession(id, 'POST', '/commands', { type, ...fields });

/** Opens a session and keeps its token; gives its id. */
export async function openSession() {
  const made = await asOperator('POST', 'sessions');
  kept.keepSession(made.sessionId, { token: made.token, at: Date.now() });
  return made.sessionId;
}

/** `GET /health`, which answers ten times a minute only: what it said last holds meanwhile. */
export async function health() {
  try {
    const told = await call('GET', 'health');
    sessionStorage.setItem('bridge.health', JSON.stringify(told));
    return told;
  } catch (error) {
    return decoded(sessionStorage.getItem('bridge.health') ?? '') ?? Promise.reject(error);
  }
}

// A name for something new. The browser's own maker of them is there on https and localhost only.
export const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');
