// The conversation: its last items as elements, made anew only where something has changed, and at most once a frame.

import { brief, fill, h, name } from './dom.js';
import { growing } from './markdown.js';
import { STATES } from './states.js';
import { clock, countDown, duration } from './time.js';

const SHOWN_ITEMS = 60;
const MORE_ITEMS = 200;
const AT_END_PX = 60;
const CATCH_UP_MS = 500;

const OUTCOMES = {
  completed: 'Done',
  cancelled: 'Stopped',
  failed: 'Failed',
  interrupted: 'Interrupted; it is taken up again',
  budget_exceeded: 'Stopped at its budget',
};

/** Shows the state's chat in `root`, which `scroller` scrolls. `actions`: {loadOlder, resend, discard, showRepair, showWorkflow}. */
export function mountChat(scroller, root, store, actions) {
  const views = new Map();
  let first = 0;
  let extra = 0;
  let owner;
  let atEnd = false;
  let [drawnAt, later] = [0, 0];

  const older = h('button.quiet.older', { onclick: showOlder }, 'Show earlier');
  const list = h('div.log', { role: 'log', 'aria-live': 'off', 'aria-label': 'Conversation' });
  const pending = h('ol.log.pending', { 'aria-label': 'Messages on their way' });
  const nothing = h('p.hint');
  const working = h('p.hint.working');
  fill(root, older, nothing, list, working, pending);
  scroller.addEventListener('scroll', () => (atEnd = distance() < AT_END_PX), { passive: true });
  new ResizeObserver(() => atEnd && toEnd()).observe(scroller);

  const distance = () => scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight;
  const toEnd = () => (scroller.scrollTop = scroller.scrollHeight);

  function showOlder() {
    extra += MORE_ITEMS;
    if (first === 0) actions.loadOlder();
    draw(store.state);
  }

  function draw(state) {
    const { session, chat } = state;
    if (owner !== (session?.id ?? null)) {
      owner = session?.id ?? null;
      [extra, atEnd, drawnAt] = [0, owner !== null, performance.now()];
      scroller.scrollTop = 0;
      views.clear();
      list.replaceChildren();
    }
    // What is being told again is drawn in a few steps, not event by event.
    clearTimeout(later);
    const waitMs = session?.lastSeq < session?.goal ? drawnAt + CATCH_UP_MS - performance.now() : 0;
    if (waitMs > 0) {
      later = setTimeout(() => draw(store.state), waitMs);
      return;
    }
    drawnAt = performance.now();
    const before = distance();
    const stay = !atEnd;
    const shown = chat.items.filter(isShown);
    first = Math.max(0, shown.length - SHOWN_ITEMS - extra);
    drawItems(shown.slice(first), state);
    drawOutbox(state);
    const [turn] = chat.turns.values();
    const isSilent = turn && !chat.items.at(-1)?.streaming;
    const does = !isSilent ? '' : turn.kind === 'repair' ? 'Repairing …' : 'Working …';
    if (working.textContent !== does) working.textContent = does;
    const words = !session || shown.length || state.outbox.length ? '' : session.loading ? 'Loading …' : 'Nothing has been said yet.';
    if (nothing.textContent !== words) nothing.textContent = words;
    const more = first > 0 || (session?.oldest ?? session?.firstSeq ?? 0) > (session?.firstSeq ?? 0);
    older.hidden = !more;
    older.disabled = first === 0 && Boolean(session?.loading);
    if (atEnd) toEnd();
    // What is put in above does not move what is being read.
    else if (stay && list.firstChild?.dataset.fresh) scroller.scrollTop = scroller.scrollHeight - scroller.clientHeight - before;
  }

  function drawItems(items, state) {
    const keys = new Set(items.map((item) => item.key));
    for (const [key, view] of views) {
      if (!keys.has(key)) {
        view.node.remove();
        views.delete(key);
      }
    }
    delete list.firstChild?.dataset.fresh;
    let place = list.firstChild;
    for (const item of items) {
      let view = views.get(item.key);
      if (!view) {
        view = KINDS[item.kind](item, actions);
        views.set(item.key, view);
        view.node.dataset.key = item.key;
        if (place === list.firstChild) view.node.dataset.fresh = '1';
        list.insertBefore(view.node, place);
      } else if (view.node === place) {
        place = place.nextSibling;
      } else {
        list.insertBefore(view.node, place);
      }
      const rev = item.kind === 'repair' ? repairRev(item, state) : item.rev;
      if (view.rev !== rev) {
        view.update(item, state);
        view.rev = rev;
      }
    }
  }

  function drawOutbox({ outbox, connection }) {
    const key = JSON.stringify([outbox, connection.is]);
    if (pending.dataset.key === key) return;
    pending.dataset.key = key;
    fill(pending, outbox.map((message) => unsent(message, connection, actions)));
  }

  return store.subscribe(draw);
}

const isShown = (item) => (item.kind !== 'assistant' || item.text || item.streaming) && (item.kind !== 'turn' || tells(item));
const tells = (turn) => turn.outcome !== 'completed' || !turn.isRepair;
const repairRev = (item, state) => {
  const repair = state.healing.repairs.get(item.repairId);
  return repair ? `${repair.state} ${repair.steps.length}` : '';
};

// -- one item of each kind: {node, update(item, state)}

function still(node) {
  return { node, update() {} };
}

const line = (...words) => still(h('article.line', null, h('p', null, words)));

const KINDS = {
  user(item) {
    const note = h('span.note');
    const text = h('p.text', { dir: 'auto' }, item.text);
    const node = h('article.said.mine', { 'aria-label': 'You' }, text, h('footer', null, note, h('time', { datetime: item.at }, clock(item.at))));
    const words = { queued: 'Queued: answered after what runs now', answering: '', answered: '' };
    return { node, update: (now) => { note.textContent = words[now.state]; node.dataset.state = now.state; } };
  },

  assistant(item) {
    const body = h('div.markdown', { dir: 'auto' });
    const node = h('article.said.theirs', { 'aria-label': item.isRepair ? 'Answer, while repairing' : 'Answer' }, body);
    const show = growing(body);
    // A long answer that streams is read again more seldom, so that the page stays quick.
    let [costMs, doneAt, timer] = [0, 0, 0];
    return {
      node,
      update(now) {
        clearTimeout(timer);
        const waitMs = now.streaming ? doneAt + 8 * costMs - performance.now() : 0;
        if (waitMs > 16) {
          timer = setTimeout(() => this.update(now), waitMs);
          return;
        }
        const began = performance.now();
        show(now.text, !now.streaming);
        node.classList.toggle('streaming', now.streaming);
        doneAt = performance.now();
        costMs = doneAt - began;
      },
    };
  },

  tool(item) {
    const sign = h('span.sign', { 'aria-hidden': 'true' });
    const how = h('span.how');
    const gist = h('span.gist', { dir: 'auto' });
    const details = h('details.tool', null, h('summary', null, sign, h('code', null, item.tool), how, gist));
    const node = h('article.line', null, details);
    let now = item;
    const unfold = () => {
      details.querySelector('.inside')?.remove();
      if (!details.open) return;
      const result = now.rule ? `Refused: ${now.rule}` : now.summary ?? 'No result yet.';
      const shown = [h('p.hint', null, 'Input'), h('pre', { tabindex: '0' }, JSON.stringify(now.input ?? {}, null, 2))];
      details.append(h('div.inside', null, shown, h('p.hint', null, 'Result'), h('pre', { tabindex: '0' }, result)));
    };
    details.addEventListener('toggle', unfold);
    return {
      node,
      update(changed) {
        now = changed;
        const state = now.ok === undefined ? 'running' : now.ok ? 'good' : 'bad';
        details.dataset.state = state;
        sign.textContent = { running: '…', good: '✓', bad: '✕' }[state];
        how.textContent = { running: 'runs', good: 'done', bad: now.rule ? 'refused' : now.ok === null ? 'ended without a result' : 'failed' }[state];
        fill(gist, now.rule ?? (/^[[{]/.test(now.summary ?? '') ? '' : now.summary));
        if (details.open) unfold();
      },
    };
  },

  turn(item) {
    const cost = item.costUsd ? ` · $${item.costUsd.toFixed(3)}` : '';
    const words = `${OUTCOMES[item.outcome] ?? item.outcome} · ${duration(item.durationMs ?? 0)}${cost}`;
    const error = item.error && item.outcome !== 'completed' ? h('span.why', null, ` – ${item.error}`) : null;
    return still(h('article.line.end', { dataset: { outcome: item.outcome } }, h('p', null, words, error)));
  },

  failure(item, actions) {
    const count = h('span.badge', { hidden: true });
    const message = h('p.message', { dir: 'auto' });
    const where = h('p.where');
    const see = item.repairId && h('button.quiet', { onclick: () => actions.showRepair(item.repairId) }, 'See the repair');
    const title = h('p.title', null, h('strong', null, name(item.workflowName)), ' failed ', count);
    const node = h('article.card.bad', { 'aria-label': 'A workflow failed' }, title, message, where, see);
    return {
      node,
      update(now) {
        count.hidden = !(now.count > 1);
        count.textContent = `${now.count} times`;
        fill(message, brief(now.message) ?? 'n8n told no message.');
        fill(where, now.node ? ['at the node ', name(now.node)] : null, ` · ${clock(now.at)}`);
      },
    };
  },

  repair(item, actions) {
    const title = h('p.title');
    const why = h('p.message', { dir: 'auto' });
    const see = h('button.quiet', { onclick: () => actions.showRepair(item.repairId) });
    const node = h('article.card', { 'aria-label': 'Repair' }, title, why, see);
    return {
      node,
      update(now, state) {
        const repair = state.healing.repairs.get(now.repairId);
        if (!repair) return;
        const [words, tone] = STATES[repair.state] ?? [repair.state, ''];
        const workflow = state.healing.workflows.get(repair.workflowId)?.name ?? repair.workflowName;
        node.className = `card ${tone}`;
        fill(title, h('strong', null, 'The repair'), workflow ? [' of ', name(workflow)] : null, h('span.badge', { class: `badge ${tone}` }, words));
        const isReason = ['waiting', 'failed', 'blocked', 'unverified'].includes(repair.state);
        fill(why, brief(isReason ? repair.reason : (repair.state === 'diagnosed' ? null : repair.summary) ?? repair.diagnosis?.summary));
        see.textContent = repair.state === 'waiting' ? 'Look at the changes and decide' : repair.diff ? 'See what was changed' : 'See the repair';
      },
    };
  },

  registered: (item, actions) => line(h('button.link', { onclick: () => actions.showWorkflow(item.workflowId) }, name(item.name)), ' is a workflow of this session now.'),
  autonomy: (item) => line('How far repairs may go for ', name(item.workflowId), ` is now “${item.autonomy}”.`),
  rolledBack: (item) => line('Workflow ', name(item.workflowId), ` was rolled back (${item.by}).`),
  notice: (item) => still(h('article.line.notice', { dataset: { level: item.level } }, h('p', null, item.text))),
  closed: (item) => line('The session has ended: ', item.reason),
};

/** A message that the bridge has not got yet, and why. */
function unsent(message, connection, actions) {
  const note = h('span.note');
  const buttons = [];
  if (message.state === 'refused') {
    fill(note, `Not sent: ${message.why}`);
    buttons.push(h('button.quiet', { onclick: () => actions.resend(message.id) }, 'Send again'));
  } else if (message.until && connection.is === 'live') {
    const why = message.code === 'rate_limited' ? 'Too many messages in a minute' : message.why;
    countDown(note, message.until, (left) => `${why.replace(/\.$/, '')}. Sent in ${left}.`);
  } else if (message.state === 'sending') {
    note.textContent = 'Sending …';
  } else {
    note.textContent = connection.is === 'over' ? 'Not sent.' : 'Sent as soon as the connection is back.';
  }
  if (message.state !== 'sending') buttons.push(h('button.quiet', { onclick: () => actions.discard(message.id) }, 'Discard'));
  return h('li.said.mine.unsent', { 'aria-label': 'You' }, h('p.text', { dir: 'auto' }, message.text), h('footer', null, note, buttons));
}
