// The list of sessions: those that this browser has opened, and, for whoever may see them, all others.

import * as api from './api.js';
import { announce, ask } from './dialogs.js';
import { fill, h, name } from './dom.js';
import * as kept from './kept.js';
import { clock } from './time.js';

const EVERY_MS = 20_000;
const LIST_LIMIT = 200;

/** What a session is called: by the person, else by what was asked for in it. */
export function titleOf(id, told) {
  const own = kept.sessions()[id] ?? {};
  return own.name || own.first || told?.workflows?.at(-1)?.name || `Session ${id.slice(0, 8)}`;
}

/** Ask the bridge for its sessions, where this browser may. */
export async function refreshSessions(store) {
  const { bridge } = store.state;
  const set = (changes) => store.set({ bridge: Object.assign(bridge, changes) });
  if (bridge.health?.configured?.access && !kept.accessToken()) return set({ access: 'needed', sessions: null });
  const listedAt = Date.now();
  try {
    const { sessions } = await api.asOperator('GET', `sessions?limit=${LIST_LIMIT}`);
    return set({ access: 'ok', sessions, listedAt });
  } catch (error) {
    if (error.status === 401) return set({ access: 'refused', sessions: null });
    if (error.code === 'not_configured') return set({ access: 'closed', sessions: null });
    return undefined;
  }
}

/** `ui`: {open(id | null)}. */
export function mountSessions(root, store, ui) {
  const list = h('ul.session-list');
  const note = h('p.hint');
  fill(root,
    h('div.head', null, h('h2', null, 'Sessions'), h('button.quiet', { onclick: () => ui.open(null) }, 'New session')),
    list, note);
  let drawn = '';

  async function rename(id, title) {
    const text = await ask({ title: 'Rename the session', field: { label: 'Name, kept in this browser', value: title }, yes: 'Rename' });
    if (text === null) return;
    kept.keepSession(id, { name: text.slice(0, 80) });
    store.set({});
  }

  async function end(id, title, isGone) {
    const text = isGone ? 'It has ended already.' : 'Its turn stops, and failures of its workflows are no longer repaired. The workflows themselves stay.';
    const yes = await ask({ title: isGone ? `Forget “${title}”?` : `End “${title}”?`, text, yes: isGone ? 'Forget' : 'End it', danger: true });
    if (yes === null) return;
    try {
      if (!isGone) await api.inSession(id, 'DELETE');
    } catch (error) {
      if (error.status !== 404) {
        announce(`It could not be ended: ${error.message}`, { seen: true });
        return;
      }
    }
    kept.forgetSession(id);
    if (store.state.session?.id === id) ui.open(null);
    await refreshSessions(store);
    store.set({});
  }

  function draw({ bridge, session, healing }) {
    const known = kept.sessions();
    const told = new Map((bridge.sessions ?? []).filter((one) => one.state !== 'closed').map((one) => [one.id, one]));
    const ids = [...new Set([...told.keys(), ...Object.keys(known)])];
    const when = (id) => Math.max(known[id]?.at ?? 0, Date.parse(told.get(id)?.lastActiveAt ?? '') || 0);
    ids.sort((a, b) => when(b) - when(a));
    const rows = ids.map((id) => {
      const one = told.get(id);
      const isListed = one || bridge.access !== 'ok' || bridge.sessions.length >= LIST_LIMIT || known[id].at > bridge.listedAt;
      const isGone = Boolean(known[id]?.gone) || (!isListed && id !== session?.id);
      const here = id === session?.id ? healing.workflows.size : one?.workflows?.length ?? 0;
      const count = here ? `${here} workflow${here === 1 ? '' : 's'}` : 'no workflows';
      const waits = one?.pendingRepairs?.length ? 'a repair waits' : '';
      return { id, title: titleOf(id, one), isCurrent: id === session?.id, isGone, sub: isGone ? 'ended' : waits || count, at: clock(when(id)), waits };
    });
    const key = JSON.stringify([rows, bridge.access]);
    if (key === drawn) return;
    drawn = key;
    const focused = document.activeElement?.dataset?.focus;
    fill(list, rows.map(row));
    if (focused) list.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus();
    fill(note, NOTES[bridge.access] ?? (rows.length ? null : 'None yet. Write a message, and one begins.'));
  }

  function row({ id, title, isCurrent, isGone, sub, at, waits }) {
    const pick = h('button.pick', { 'aria-current': isCurrent && 'true', dataset: { focus: `pick ${id}` }, onclick: () => ui.open(id) },
      h('span.title', null, name(title)), h('span.sub', { class: waits ? 'sub waits' : 'sub' }, sub, h('time', null, at)));
    const button = (label, sign, onclick) => h('button.icon', { title: label, 'aria-label': `${label}: ${title}`, dataset: { focus: `${label} ${id}` }, onclick }, sign);
    return h('li', { class: isGone ? 'gone' : null }, pick,
      h('div.tools', null, isGone || button('Rename', '✎', () => rename(id, title)), button(isGone ? 'Forget' : 'End', '✕', () => end(id, title, isGone))));
  }

  store.subscribe(draw);
  kept.watch(() => store.set({}));
  // A wrong token is not tried again and again: they are counted.
  setInterval(() => document.hidden || store.state.bridge.access === 'refused' || refreshSessions(store), EVERY_MS);
}

const NOTES = {
  needed: 'Only the sessions of this browser are shown. With the access token all of them are.',
  refused: 'The access token is not accepted.',
  closed: 'ACCESS_TOKEN is not set on the bridge, so only its own machine sees all sessions.',
};
