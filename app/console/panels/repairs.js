// Repairs of the session: for each failure what happened, step by step, and what a person can do about it.

import { announce, ask } from '../dialogs.js';
import { alarm, away, fill, h, name, scrolls } from '../dom.js';
import { STATES } from '../states.js';
import { clock, countDown } from '../time.js';
import { askFor, casesOf } from './cases.js';
import { diffView } from './diff.js';

const SETTLE_MS = 300;
const SHOWN = 20;

const KINDS = {
  workflow_bug: 'A fault in the workflow', credentials: 'A credential', quota: 'A used-up limit', remote_outage: 'A service that is away', unknown: 'Unknown',
};
const BY = { person: 'by you or a colleague', bridge: 'by the bridge' };

export function mount(root, { store, api, connection, ui }) {
  const list = h('ul.cards');
  const empty = h('p.hint', null, 'Nothing has failed.');
  const problem = alarm();
  const more = h('button.quiet', { onclick: () => { limit += SHOWN; redraw(); } }, 'Show earlier failures');
  fill(root, empty, list, more, problem);
  const views = new Map();
  const unfolded = new Map();
  const busy = new Map();
  let [owner, drawn, asked, limit, records, known] = [null, '', null, SHOWN, [], ''];

  function redraw() {
    drawn = '';
    store.set({});
  }

  function draw(state) {
    const { session, healing, shown } = state;
    if (owner !== (session?.id ?? null)) {
      [owner, limit, records, known] = [session?.id ?? null, SHOWN, [], ''];
      for (const kept of [views, unfolded, busy]) kept.clear();
      fill(problem);
    }
    const key = JSON.stringify([owner, healing.rev, [...healing.repairs.values()].map((one) => [one.repairId, one.state, one.steps.length, one.count]), [...healing.cases.values()].map((one) => [one.key, one.count, one.blocked]), records.length]);
    if (key !== drawn) {
      drawn = key;
      show(casesOf(healing, records));
    }
    if (shown !== asked) {
      asked = shown;
      if (shown?.repairId) reveal(shown.repairId);
    }
    look();
  }

  // Times, costs, refusals and what lies before the events that are here.
  function look() {
    const { healing } = store.state;
    const wanted = `${owner} ${askFor(healing)}`;
    if (!owner || wanted === known) return;
    clearTimeout(look.timer);
    look.timer = setTimeout(async () => {
      if (!root.checkVisibility() || store.state.connection.is === 'over') return;
      known = wanted;
      const of = owner;
      try {
        const answer = await api.inSession(of, 'GET', '/repairs');
        if (of !== owner) return;
        records = answer.repairs;
        fill(problem);
        redraw();
      } catch (error) {
        fill(problem, `Earlier repairs cannot be shown: ${error.message}`);
      }
    }, SETTLE_MS);
  }
  new IntersectionObserver(look).observe(root);

  function show(cases) {
    empty.hidden = cases.length > 0;
    more.hidden = cases.length <= limit;
    const seen = cases.slice(0, limit);
    const focused = document.activeElement?.closest('[data-case]')?.dataset.case;
    const nodes = seen.map((one, i) => {
      const view = views.get(one.key);
      const key = JSON.stringify([one, busy.get(one.key)]);
      if (view?.key === key) return view.node;
      const node = card(one, i === 0);
      views.set(one.key, { key, node });
      return node;
    });
    if (nodes.some((node, i) => list.children[i] !== node) || list.children.length > nodes.length) fill(list, nodes);
    if (focused && !document.activeElement?.closest('[data-case]')) views.get(focused)?.node.querySelector('summary')?.focus();
  }

  function reveal(repairId) {
    const one = casesOf(store.state.healing, records).find((found) => found.key === repairId || found.attempts.some((attempt) => attempt.repairId === repairId));
    const node = one && views.get(one.key)?.node;
    if (!node) return;
    node.firstChild.open = true;
    node.scrollIntoView({ block: 'start' });
    // Where something is to be decided, the buttons are seen too, below the changes.
    node.querySelector('.timeline > .now')?.scrollIntoView({ block: 'nearest' });
  }

  /** Says what came of it where it was asked for; the events tell the rest. */
  async function act(key, words, doIt) {
    if (busy.get(key)?.words) return;
    busy.set(key, { words });
    redraw();
    try {
      await doIt();
      busy.delete(key);
    } catch (error) {
      busy.set(key, { problem: error.message });
    }
    redraw();
  }

  const decide = (one, type, attempt) => act(one.key, type === 'approve' ? 'Publishing …' : 'Rejecting …', () => connection.command(type, { repairId: attempt.repairId }));
  const tryAgain = (one) => act(one.key, 'Asking …', () => connection.command('retry_repair', { workflowId: one.workflowId, signature: one.signature }));
  async function undo(one, attempt) {
    const yes = await ask({ title: 'Undo this repair?', text: 'The workflow becomes exactly what it was before the repair. What is there now is kept as a snapshot.', yes: 'Undo', danger: true });
    if (yes !== null) act(one.key, 'Undoing …', async () => {
      await connection.command('rollback', { workflowId: one.workflowId, snapshotId: attempt.snapshotId });
      announce('The repair is undone.', { seen: true });
    });
  }

  function card(one, isNewest) {
    const [words, tone] = STATES[one.state] ?? [one.state, ''];
    const isOpen = unfolded.get(one.key) ?? (isNewest || ['waiting', 'blocked'].includes(one.state));
    const times = one.count > 1 ? `${one.count} times` : null;
    const remember = (event) => unfolded.set(one.key, event.target.open);
    const summary = h('summary', null, h('span', null, h('strong', null, name(one.workflowName ?? one.workflowId)), h('span.badge', { class: `badge ${tone}` }, words), times && h('span.badge.count', null, times)),
      h('time.hint', { datetime: one.movedAt }, clock(one.movedAt)));
    const earlier = one.attempts.slice(0, -1);
    const last = one.attempts.at(-1);
    const now = busy.get(one.key) ?? {};
    const body = h('div.inside', null,
      h('ol.timeline', null, failure(one), last ? steps(one, last, now) : unrepaired(one), blocked(one, now)),
      now.words && h('p.hint', { role: 'status' }, now.words), now.problem && alarm(now.problem),
      earlier.length > 0 && h('details.earlier', null, h('summary', null, `${earlier.length} earlier attempt${earlier.length > 1 ? 's' : ''}`),
        earlier.reverse().map((attempt) => h('ol.timeline', { 'aria-label': `Attempt ${attempt.attempt}` }, steps(one, attempt, {}, true)))));
    return h('li.card', { dataset: { case: one.key }, class: `card case ${tone}` }, h('details', { open: isOpen, ontoggle: remember }, summary, body));
  }

  const step = (tone, title, at, ...content) => h(`li${tone ? `.${tone}` : ''}`, null, h('p.what', null, h('strong', null, title), at && h('time.hint', { datetime: at }, clock(at))), content);

  function failure(one) {
    const { error, node, count, firstAt, lastAt, executionUrl } = one;
    const often = count > 1 && ` Seen ${count} times, last ${clock(lastAt)}.`;
    return step('bad', 'Error', firstAt,
      h('p', { dir: 'auto' }, node && [name(node), ': '], error?.message ?? error?.name ?? (error ? 'n8n told no message.' : 'It was told of before the events that are shown here.')),
      error?.description && h('p.hint', { dir: 'auto' }, error.description),
      h('p.hint', null, often, executionUrl && [' ', away(executionUrl, 'The run in n8n')]));
  }

  const unrepaired = (one) => !one.blocked && step('', 'No repair', null, h('p', null, 'None was begun: the workflow is only observed, or the cause is known to be none that a change would mend.'));

  function steps(one, attempt, now, isPast = false) {
    const { state, kind, found, diff, asked, refusals, verified, doubt, reason, times } = attempt;
    const at = (event, recorded) => times[event] ?? times[recorded];
    const made = [];
    if (kind) made.push(step('', KINDS[kind] ?? kind, at('repair_diagnosed', 'running'), found && h('p', null, found)));
    else if (state === 'error' || state === 'started') made.push(step('now', 'Diagnosis', null, h('p', null, 'The cause is being looked for.')));
    for (const note of attempt.notes) made.push(step('', 'Note', null, h('p', null, note)));
    if (attempt.retries) made.push(step('', 'Repeated', at('', 'retrying'), h('p', null, `The failed run was repeated ${attempt.retries} time${attempt.retries > 1 ? 's' : ''} as it was.`)));
    if (refusals.length) made.push(step('', 'Kept from the agent', null, h('details', null, h('summary', null, `${refusals.length} refused`), h('ul.plain', null, refusals.map((one) => h('li', null, one.rule))))));
    if (diff) {
      made.push(step('', 'Change', at('repair_proposed', 'trying'), h('p', { dir: 'auto' }, attempt.told), diffView(diff),
        h('button.quiet', { onclick: () => enlarge(one, attempt) }, 'Larger'),
        asked.length > 0 && h('div.asked', null, h('h4', null, 'It goes beyond what a repair may do by itself:'), h('ul.plain', null, asked.map((rule) => h('li', null, rule))))));
      if (verified) made.push(step('good', 'Trial', at('repair_verified', 'trying'), h('p', null, `The failed run was repeated with the change, and went through${attempt.executionId ? ` (run ${attempt.executionId})` : ''}.`)));
      else if (doubt || state === 'waiting') made.push(step('doubt', 'Trial', at('repair_unverified', ''), h('p', { dir: 'auto' }, `Not proven: ${doubt ?? reason ?? 'it was not tried'}`.replace(/([^.])$/, '$1.'))));
      else if (attempt.executionId) made.push(step('', 'Trial', at('', 'trying'), h('p', null, `It was tried in run ${attempt.executionId}.`)));
      else if (state === 'proposed') made.push(step('now', 'Trial', null, h('p', null, 'The failed run is being repeated with the change.')));
    }
    made.push(end(one, attempt, now, isPast));
    return made;
  }

  function end(one, attempt, now, isPast) {
    const { state, reason, decidedBy, times, doubt, costUsd } = attempt;
    const by = BY[decidedBy] ? ` ${BY[decidedBy]}` : '';
    const cost = costUsd ? h('p.hint', null, `It has cost $${costUsd.toFixed(3)}.`) : null;
    const why = reason && reason !== doubt && h('p', { dir: 'auto' }, reason);
    if (state === 'waiting' && !isPast) {
      return step('now', 'Your decision', times.repair_waiting ?? times.waiting, why,
        attempt.expiresAt && countDown(h('p.hint'), Date.parse(attempt.expiresAt), (left) => `It expires in ${left}.`), decision(one, attempt, now), cost);
    }
    const ends = {
      published: ['good', 'Published', `${by ? `Published${by}` : 'Published'}: n8n runs the repaired version, and the one before it is kept.`],
      approved: ['now', 'Approved', `Approved${by}; it is being published.`], rejected: ['', 'Rejected', `Rejected${by}. The workflow is as it was.`],
      expired: ['bad', 'Expired', 'Nobody decided in time. The workflow is as it was.'], unverified: ['doubt', 'Suggested', 'Nothing was written to n8n. Make the change there, or raise how far repairs may go.'],
      not_a_bug: ['bad', 'For you to do', null], over: ['', 'Over', null], failed: ['bad', 'Not repaired', 'The workflow is as it was.'], rolled_back: ['bad', 'Undone', 'The workflow is as it was before the repair.'],
    };
    if (state === 'diagnosed' && ['credentials', 'quota'].includes(attempt.kind)) ends.diagnosed = ends.not_a_bug;
    if (!ends[state]) return null;
    const [tone, title, words] = ends[state];
    const told = ['failed', 'not_a_bug', 'diagnosed', 'over'].includes(state) && reason !== attempt.found && why;
    const todo = title === 'For you to do' && h('p', null, 'Do what is said above in n8n, then run the workflow again. No change of the workflow would mend it.');
    const back = state === 'published' && attempt.snapshotId && !isPast && h('button.quiet', { disabled: Boolean(now.words), onclick: () => undo(one, attempt) }, 'Undo this repair');
    return step(tone, title, times[`repair_${state}`] ?? times[state] ?? times.repair_decided, told, todo, words && h('p', null, words), back, cost);
  }

  function decision(one, attempt, now, after = () => {}) {
    const button = (kind, words, type) => h(`button.${kind}`, { disabled: Boolean(now.words), onclick: () => { after(); decide(one, type, attempt); } }, words);
    return h('div.buttons', null, button('main', 'Approve and publish', 'approve'), button('danger', 'Reject', 'reject'));
  }

  function blocked(one, now) {
    if (!one.blocked) return null;
    return step('bad', 'For you to do', one.blocked.at, h('p', { dir: 'auto' }, one.blocked.reason),
      h('p', null, 'Nothing more is tried by itself. Look at what failed, mend the workflow in n8n or in the chat, or let the bridge try once more.'),
      h('div.buttons', null, h('button.main', { disabled: Boolean(now.words), onclick: () => tryAgain(one) }, 'Try once more'),
        h('button.quiet', { onclick: () => ui.show('workflows', { workflowId: one.workflowId }) }, 'See the workflow')));
  }

  function enlarge(one, attempt) {
    const close = () => dialog.close();
    const dialog = h('dialog.wide', { 'aria-labelledby': 'larger', onclose: () => dialog.remove() },
      h('h2', { id: 'larger' }, 'Change of ', name(one.workflowName ?? one.workflowId)), h('p', { dir: 'auto' }, attempt.told), scrolls('Differences, scrollable', diffView(attempt.diff)),
      h('div.buttons', null, attempt.state === 'waiting' && decision(one, attempt, {}, close), h('button.quiet', { onclick: close }, 'Close')));
    document.body.append(dialog);
    dialog.showModal();
  }

  store.subscribe(draw);
}
