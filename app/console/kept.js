// What this browser keeps: tokens, names and drafts. Nothing of it leaves but as a credential to this bridge.

const PREFIX = 'bridge.';

const parsed = new Map();
/** What could not be kept lasts as long as the page. */
const unkept = new Map();

// Read again and again while something streams, and parsed once. What is given out is not to be changed.
function read(key, otherwise) {
  if (unkept.has(key)) return unkept.get(key) ?? otherwise;
  try {
    const text = localStorage.getItem(PREFIX + key);
    if (parsed.get(key)?.text !== text) parsed.set(key, { text, value: JSON.parse(text) });
    return parsed.get(key).value ?? otherwise;
  } catch {
    return otherwise;
  }
}

function write(key, value) {
  try {
    if (value === null || value === '') localStorage.removeItem(PREFIX + key);
    else localStorage.setItem(PREFIX + key, JSON.stringify(value));
    unkept.delete(key);
  } catch {
    unkept.set(key, value);
  }
}

/** The access token, or `null`. */
export const accessToken = () => read('access', null);
export const keepAccessToken = (token) => write('access', token);

/** Sessions that were opened here, `{id: {token?, name?, first?, at}}`. */
export const sessions = () => read('sessions', {});

export function keepSession(id, changes) {
  const all = sessions();
  write('sessions', { ...all, [id]: { ...all[id], ...changes } });
}

export function forgetSession(id) {
  const { [id]: _, ...rest } = sessions();
  write('sessions', rest);
  write(`draft.${id}`, null);
  write(`outbox.${id}`, null);
}

export const draft = (id) => read(`draft.${id}`, '');
export const keepDraft = (id, text) => write(`draft.${id}`, text);

/** Messages that the bridge has not confirmed, `[{id, text}]`, oldest first. */
export const outbox = (id) => read(`outbox.${id}`, []);
export const keepOutbox = (id, messages) => write(`outbox.${id}`, messages.length ? messages : null);

/** Calls `told` when another tab has changed something; gives a function that ends that. */
export function watch(told) {
  const heard = (event) => event.key?.startsWith(PREFIX) && told(event.key.slice(PREFIX.length));
  addEventListener('storage', heard);
  return () => removeEventListener('storage', heard);
}
