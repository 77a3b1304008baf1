// The page: what is where, which session is open, and what is said about the connection. Everything else has its module.

import * as api from './api.js';
import * as chatState from './chat-state.js';
import { mountChat } from './chat.js';
import { mountComposer } from './composer.js';
import { announce, ask } from './dialogs.js';
import { fill, h, name, visible } from './dom.js';
import * as healingState from './healing-state.js';
import * as kept from './kept.js';
import { mount as mountOps } from './panels/ops.js';
import { mount as mountRepairs } from './panels/repairs.js';
import { mount as mountWorkflows } from './panels/workflows.js';
import { openSession } from './session.js';
import { mountSessions, refreshSessions, titleOf } from './sessions.js';
import { begin, mountStory } from './story.js';
import { createStore } from './store.js';
import { mountTabs } from './tabs.js';
import { countDown } from './time.js';
import { mountWelcome } from './welcome.js';

const SIDE = ['workflows', 'repairs'];

const find = (id) => document.getElementById(id);
const current = (element, is) => (is ? element.setAttribute('aria-current', 'page') : element.removeAttribute('aria-current'));
const store = createStore({ chat: chatState, healing: healingState });
let session = null;
let unmountOps = null;

/** The open session for panels. Without one, nothing happens. */
const connection = {
  /** A command frame's effect; an `ApiError` where it is refused. */
  command: (type, fields) => session?.command(type, fields),
  loadOlder: () => session?.loadOlder(),
  retry: () => session?.retry(),
};

const ui = {
  /** Open a session, or, with `null`, the page for a new one. */
  open(id) {
    location.hash = id ? `#${id}` : '#new';
    find('message').focus();
  },
  /** Bring a panel into view: `show('repairs', {repairId})`, `show('workflows', {workflowId})`. */
  show(tab, what = {}) {
    tabs.show(tab);
    document.body.dataset.view = tab;
    store.set({ shown: { tab, ...what } });
    find(`panel-${tab}`).focus({ preventScroll: true });
  },
};

const welcome = h('section.welcome', { 'aria-label': 'Welcome' });
const log = h('div.conversation');
fill(find('log'), welcome, log);

const actions = {
  loadOlder: connection.loadOlder,
  resend: (id) => session?.resend(id),
  discard: (id) => session?.discard(id),
  showRepair: (repairId) => ui.show('repairs', { repairId }),
  showWorkflow: (workflowId) => ui.show('workflows', { workflowId }),
};
const composer = mountComposer(find('composer'), store, { say, stop });
mountChat(find('log'), log, store, actions);
mountWelcome(welcome, store, { play, write: (text) => { composer.put(text); composer.focus(); } });
mountSessions(find('sessions'), store, ui);
mountStory(find('story'), store, ui);
const tabs = mountTabs(find('tabs'), [{ id: 'workflows', title: 'Workflows' }, { id: 'repairs', title: 'Repairs' }], (shown) => {
  // What is chosen on a wide screen is what a narrow one shows when the window is made small.
  if (SIDE.includes(document.body.dataset.view)) document.body.dataset.view = shown;
});
tabs.show('workflows');
const context = { store, api, connection, ui };
mountWorkflows(find('panel-workflows'), context);
mountRepairs(find('panel-repairs'), context);

// -- what the person does

let opening = null;
async function opened() {
  if (session) return session;
  opening ??= api.openSession().finally(() => (opening = null));
  const id = await opening;
  if (session?.id !== id) {
    history.replaceState(null, '', `#${id}`);
    route();
  }
  return session;
}

async function say(text) {
  try {
    (await opened()).say(text);
  } catch (error) {
    composer.put(text);
    refused(error);
  }
}

async function stop() {
  try {
    await connection.command('cancel');
  } catch (error) {
    if (error.status !== 409) announce(`It could not be stopped: ${error.message}`, { seen: true });
  }
}

let playing = false;
async function play() {
  // A second click is not a second drill.
  if (playing) return;
  playing = true;
  try {
    const { id, text } = await begin(store.state.bridge.health);
    ui.open(id);
    route();
    if (text) session.say(text);
  } catch (error) {
    refused(error);
  }
  playing = false;
}

function refused(error) {
  const again = error.retryAfterS ? ` Try again in ${error.retryAfterS} s.` : '';
  announce(`No session could be opened: ${error.message}${again}`, { seen: true });
  if (error.status === 401) giveToken();
}

async function giveToken() {
  const has = kept.accessToken() !== null;
  const field = { label: 'Access token', type: 'password' };
  const text = 'It is what ACCESS_TOKEN is set to on the bridge. It is kept in this browser only, and opens any session.';
  const token = await ask({ title: 'Access token', text, field, yes: 'Keep it', other: has && 'Forget the one that is kept' });
  if (token === null) return;
  kept.keepAccessToken(token || null);
  await refreshSessions(store);
  if (session && store.state.connection.is === 'over') reopen();
}

// -- which session is open

function route() {
  // Notifications name a session as `#session=<id>`.
  const place = location.hash.slice(1).replace(/^session=/, '');
  const isOps = place === 'ops';
  find('ops').hidden = !isOps;
  find('console').hidden = find('views').hidden = isOps;
  document.querySelector('.skip').hidden = isOps;
  current(find('to-ops'), isOps);
  current(find('to-console'), !isOps);
  if (isOps) unmountOps ??= mountOps(find('ops'), context);
  else unmountOps = unmountOps?.() ?? null;
  store.set({});
  if (isOps) return;
  const id = place === 'new' ? null : place || latest();
  if (session?.id === (id ?? undefined)) return;
  session?.close();
  session = null;
  if (id) session = openSession(store, id);
  else store.open(null);
  document.body.dataset.view = 'chat';
  if (store.state.bridge.sessions) refreshSessions(store);
}

function reopen() {
  const { id } = session;
  session.close();
  session = openSession(store, id);
}

const latest = () => Object.entries(kept.sessions()).filter(([, one]) => !one.gone).sort(([, a], [, b]) => b.at - a.at)[0]?.[0] ?? null;

// -- what is said about it

function drawStatus({ connection: now, session: open }) {
  const key = JSON.stringify([now, open?.agent]);
  if (drawStatus.key === key) return;
  drawStatus.key = key;
  const again = (words) => h('button.quiet', { onclick: () => (now.is === 'over' ? reopen() : connection.retry()) }, words);
  const words = h('span');
  const shown = {
    none: () => [],
    connecting: () => 'Connecting …',
    live: () => ['Live', open?.agent && h('span.agent', null, open.agent === 'claude' ? 'Claude answers' : 'The offline agent answers')],
    waiting: () => [countDown(words, now.until, (left) => `${now.why} Reconnecting in ${left}.`), again('Now')],
    offline: () => 'Offline: this device has no network.',
    over: () => [now.why, now.code === 4409 ? again('Use it here') : now.code === 4401 && h('button.quiet', { onclick: giveToken }, 'Give the access token')],
  }[now.is]();
  find('status').dataset.is = now.is;
  // Its countdown is not for the ear; that something has changed is.
  if (now.is !== 'connecting' && now.is !== drawStatus.said) {
    const words = { live: drawStatus.said && 'Connected again.', offline: 'Offline.' }[now.is] ?? now.why;
    if (words) announce(words);
    drawStatus.said = now.is === 'none' ? undefined : now.is;
  }
  fill(find('status'), now.is !== 'none' && h('span.dot', { 'aria-hidden': 'true' }), shown);
}

function drawHead({ session: open, bridge }) {
  const told = open && bridge.sessions?.find((one) => one.id === open.id);
  const title = open ? titleOf(open.id, told) : 'New session';
  const head = find('session-head');
  if (head.dataset.title === title) return;
  head.dataset.title = title;
  fill(head, h('h2', null, name(title)));
}

const views = [['sessions', 'Sessions'], ['chat', 'Chat'], ['workflows', 'Workflows'], ['repairs', 'Repairs']].map(([view, title]) =>
  h('button', { dataset: { view }, onclick: () => (SIDE.includes(view) ? ui.show(view) : (document.body.dataset.view = view)) }, title, h('span.badge', { hidden: true })));
fill(find('views'), views);
new MutationObserver(markView).observe(document.body, { attributeFilter: ['data-view'] });

function markView() {
  for (const button of views) current(button, button.dataset.view === document.body.dataset.view);
}
markView();

function drawWaiting({ healing, session: open }) {
  const count = healingState.waiting(healing).length;
  tabs.badge('repairs', count ? String(count) : '');
  const badge = views[3].querySelector('.badge');
  badge.hidden = !count;
  badge.textContent = count || '';
  const title = visible(!find('ops').hidden ? 'Operations' : open ? titleOf(open.id) : 'New session');
  document.title = `${count ? `(${count}) ` : ''}${title} · self-healing bridge`;
}

// What has come since the session was opened is said to who does not see it.
const told = new Set();
function speak({ chat, healing, session: open }) {
  if (told.owner !== open?.id) told.clear();
  told.owner = open?.id;
  const say = (key, words) => told.has(key) || (told.add(key), announce(words));
  for (const item of chat.items.slice(-20)) {
    if (item.seq <= open.toldSeq || item.streaming) continue;
    if (item.kind === 'assistant' && item.text) say(item.key, `Answer: ${item.text}`);
    else if (item.kind === 'failure') say(item.key, `The workflow ${item.workflowName} failed.`);
  }
  for (const { repairId } of healingState.waiting(healing)) say(repairId, 'A repair waits for your decision.');
}

for (const draw of [drawStatus, drawHead, drawWaiting, speak]) store.subscribe(draw);

// -- begin

addEventListener('hashchange', route);
find('access').addEventListener('click', giveToken);
document.querySelector('.skip').addEventListener('click', (event) => {
  event.preventDefault();
  composer.focus();
});
find('to-console').addEventListener('click', (event) => {
  event.preventDefault();
  location.hash = session ? `#${session.id}` : '#';
});
route();
try {
  store.set({ bridge: Object.assign(store.state.bridge, { health: await api.health() }) });
} catch {
  // It is not needed; the connection says whether anybody is there.
}
refreshSessions(store);
