// The operators' view: the brake, whether the bridge is ready, what it does, and callbacks that reached nobody.

import { announce } from '../dialogs.js';
import { alarm, fill, h, name, scrolls } from '../dom.js';
import { titleOf } from '../sessions.js';
import { clock } from '../time.js';
import { dial } from './dial.js';
import { SAMPLE_MS, take, tiles } from './metrics.js';

const LIST_EVERY = 3;
const LIMIT = 100;
const BRAKE_WORDS = {
  observe: 'The brake is on: failures are recorded, no agent is asked, nothing is written to n8n.',
  suggest: 'The brake is on: changes are suggested, nothing is written to n8n, not even what was approved.',
  ask: 'The brake is half on: changes are tried as drafts, and none is published without a person.',
  auto: 'The brake is off: each workflow goes as far as its own setting says.',
};
const REASONS = {
  no_session: 'No session owns its workflow', session_closed: 'Its session was ended', bad_schema: 'Not what n8n sends', too_large: 'Too large', rate_limited: 'Over the limit; routed later',
};

/** Gives a function that takes it away again. */
export function mount(root, { store, api }) {
  const part = (title, ...content) => h('section', { 'aria-label': title }, h('h3', null, title), content);
  const [closed, brakeProblem, listProblem, letterProblem] = [h('div.closed'), alarm(), alarm(), alarm()];
  const brake = dial('The brake', BRAKE_WORDS, async (autonomy) => {
    await api.asOperator('PUT', 'autonomy', { autonomy });
    announce(BRAKE_WORDS[autonomy]);
  });
  const checks = h('ul.checks');
  const numbers = h('ul.tiles');
  const sessions = h('tbody');
  const letters = h('ul.cards');
  const reason = h('select', { id: 'letters-of', onchange: () => loadLetters() }, h('option', { value: '' }, 'all'), Object.keys(REASONS).map((one) => h('option', { value: one }, REASONS[one])));
  const column = (words) => h('th', { scope: 'col' }, words);
  const open = h('div.ops-grid', { hidden: true },
    part('The brake', brake.node, brakeProblem),
    part('Readiness', checks),
    part('Now', numbers, h('p.hint', null, 'Of the workers on the machine that answers, sampled every 5 s while this page is open.')),
    part('Live sessions', scrolls('Live sessions, scrollable', h('table.wide-table', null, h('thead', null, h('tr', null, ['Session', 'Page open', 'Workflows', 'Repairs that wait', 'Last active'].map(column))), sessions)), listProblem),
    part('Dead letters', h('p.hint', null, 'Callbacks that reached no session. They are kept until somebody replays them.'), h('div.buttons', null, h('label', { for: 'letters-of' }, 'Show those with the reason'), reason), letterProblem, letters));
  fill(root, h('h2', null, 'Operations'), closed, open);

  const letterViews = new Map();
  let [ticks, timer, ended, live, shownLetters, allowed] = [0, 0, false, [], '', null];

  // Who may not see it is not asked again and again: wrong tokens are counted.
  function refused(error) {
    if (error.status !== 401 && error.code !== 'not_configured') return false;
    allowed = false;
    open.hidden = true;
    const needs = error.status === 401 ? [h('p', null, 'This view needs the access token: what ACCESS_TOKEN is set to on the bridge.'), h('div.buttons', null,
      h('button.main', { onclick: () => document.getElementById('access').click() }, 'Give the access token'), h('button.quiet', { onclick: begin }, 'Try again'))] : h('p', null, error.message);
    fill(closed, needs);
    return true;
  }

  async function begin() {
    try {
      brake.show((await api.asOperator('GET', 'autonomy')).autonomy);
    } catch (error) {
      if (!refused(error)) fill(closed, alarm(error.message), h('button.quiet', { onclick: begin }, 'Try again'));
      return;
    }
    if (ended) return;
    fill(closed);
    open.hidden = false;
    allowed = true;
    ticks = 0;
    tick();
  }

  async function tick() {
    clearTimeout(timer);
    if (ended || !allowed) return;
    if (!document.hidden) {
      const slow = ticks++ % LIST_EVERY === 0 ? [loadBrake(), loadSessions().then(loadLetters)] : [];
      await Promise.all([loadChecks(), loadNumbers(), ...slow]);
    }
    if (!ended) timer = setTimeout(tick, SAMPLE_MS);
  }

  /** Asks, and says in place what is wrong, instead of losing what is shown. */
  async function load(problem, path, show) {
    try {
      const answer = await api.asOperator('GET', path);
      if (ended) return;
      fill(problem);
      show(answer);
    } catch (error) {
      if (!ended && !refused(error)) fill(problem, error.message);
    }
  }

  const loadBrake = () => load(brakeProblem, 'autonomy', ({ autonomy }) => brake.show(autonomy));

  async function loadChecks() {
    let found;
    try {
      found = (await api.call('GET', 'readyz')).checks;
    } catch (error) {
      found = error.fields?.checks ?? { bridge: error.message };
    }
    fill(checks, Object.entries(found).map(([what, says]) => h('li', { class: says === 'ok' ? 'there' : 'missing' }, h('span.sign', { 'aria-hidden': 'true' }, says === 'ok' ? '✓' : '✕'), h('span', null, `${what}: ${says}`))));
  }

  const metricsProblem = alarm();
  numbers.after(metricsProblem);
  const loadNumbers = () => load(metricsProblem, 'metrics', (text) => {
    take(text);
    fill(numbers, tiles());
  });

  const loadSessions = () => load(listProblem, `sessions?limit=${LIMIT}`, (answer) => {
    live = answer.sessions.filter((one) => one.state === 'live' || one.connected);
    const row = (one) => h('tr', null, h('th', { scope: 'row' }, h('a', { href: `#${one.id}` }, name(titleOf(one.id, one)))), h('td', null, one.connected ? 'yes' : 'no'), h('td', null, String(one.workflows.length)),
      h('td', null, one.pendingRepairs.length ? h('span.badge', null, String(one.pendingRepairs.length)) : '0'), h('td', null, clock(one.lastActiveAt)));
    const key = JSON.stringify(live);
    if (sessions.dataset.key === key) return;
    sessions.dataset.key = key;
    const focused = sessions.contains(document.activeElement) && document.activeElement.hash;
    fill(sessions, live.length ? live.map(row) : h('tr', null, h('td', { colspan: '5' }, 'None.')));
    if (focused) sessions.querySelector(`[href="${focused}"]`)?.focus();
  });

  const loadLetters = () => load(letterProblem, `dead-letters?limit=${LIMIT}${reason.value ? `&reason=${reason.value}` : ''}`, ({ deadLetters }) => {
    const key = JSON.stringify(deadLetters);
    for (const { choose } of letterViews.values()) choose();
    if (shownLetters === key) return;
    shownLetters = key;
    const nodes = deadLetters.map((one) => {
      const known = letterViews.get(one.id);
      if (known?.state === one.state) return known.node;
      const view = { ...letter(one, known?.said), state: one.state };
      letterViews.set(one.id, view);
      return view.node;
    });
    const ids = new Set(deadLetters.map((one) => one.id));
    for (const id of letterViews.keys()) if (!ids.has(id)) letterViews.delete(id);
    fill(letters, nodes.length ? nodes : h('li.hint', null, 'None.'));
  });

  /** `said`: where what came of its replay stands already. */
  function letter(one, said = h('p', { role: 'status' })) {
    const path = `dead-letters/${encodeURIComponent(one.id)}`;
    const body = h('pre', { tabindex: '0' });
    const look = h('details', { ontoggle: async () => {
      if (!look.open || body.firstChild) return;
      try {
        fill(body, JSON.stringify((await api.asOperator('GET', path)).body, null, 2));
      } catch (error) {
        fill(body, error.message);
      }
    } }, h('summary', null, 'What came'), body);
    const into = h('select', { id: `into-${one.id}` });
    const choose = () => {
      const [wanted, key] = [into.value, JSON.stringify(live.map((session) => session.id))];
      if (into.dataset.key === key) return;
      into.dataset.key = key;
      fill(into, h('option', { value: '' }, 'the session that owns its workflow'), live.map((session) => h('option', { value: session.id }, titleOf(session.id, session))));
      into.value = wanted;
    };
    choose();
    const button = h('button.main', { onclick: replay }, 'Replay');

    async function replay() {
      if (button.ariaDisabled) return;
      button.ariaDisabled = 'true';
      said.classList.remove('problem');
      fill(said, 'Replaying …');
      try {
        const answer = await api.asOperator('POST', `${path}/replay`, into.value ? { sessionId: into.value } : undefined);
        fill(said, answer.duplicate ? 'It had been replayed before.' : [`Taken; its repair is ${answer.repair}. `, h('a', { href: `#${answer.sessionId}` }, 'Open the session')]);
      } catch (error) {
        button.ariaDisabled = null;
        said.classList.add('problem');
        fill(said, `Not replayed: ${error.message}`);
      }
    }

    const facts = [one.workflowId && ['workflow ', name(one.workflowId)], one.executionId && ['run ', name(one.executionId)], one.sizeBytes && `${one.sizeBytes} bytes`].filter(Boolean).map((fact, i) => (i ? [' · ', fact] : fact));
    const isOpen = one.state === 'kept' && !['bad_schema', 'too_large'].includes(one.reason);
    const node = h('li.card', { dataset: { letter: one.id } }, h('p.title', null, h('strong', null, REASONS[one.reason] ?? one.reason), h('span.hint', null, ` ${clock(one.at)}`), one.state === 'replayed' && h('span.badge.good', null, 'replayed')),
      h('p.hint', null, facts), look,
      isOpen ? h('div.buttons', null, h('label', { for: `into-${one.id}` }, 'into'), into, button) : one.state === 'kept' && h('p.hint', null, 'It cannot be replayed: it could not be read.'), said);
    return { node, said, choose };
  }

  // A token that was given elsewhere on the page.
  let access = store.state.bridge.access;
  const unsubscribe = store.subscribe(({ bridge }) => {
    const now = bridge.access;
    if (access !== now && now === 'ok' && allowed === false) begin();
    access = now;
  });
  begin();

  return () => {
    ended = true;
    clearTimeout(timer);
    unsubscribe();
    root.replaceChildren();
  };
}
