// Workflows and repairs of the session, from events, and from the welcome for what lies before them.
//
// workflows: Map id → {workflowId, name, autonomy, failing: null | {node, message, at, executionUrl?}}
// repairs:   Map id → {repairId, workflowId, workflowName?, signature?, state, attempt, count, error?, node?, diagnosis?,
//            summary?, diff?, reason?, expiresAt?, executionId?, snapshotId?, decision?, steps: [{type, at, data, count}]}
// cases:     Map `<workflow id>:<signature>` → {key, workflowId, workflowName, signature, error, node?, executionUrl?, count,
//            firstAt, lastAt, blocked: null | {reason, at}}: equal failures, of which each may have several repairs
// `rev` grows where a workflow may have been changed. `state` is the last thing that happened: error, started, diagnosed,
// proposed, waiting, approved, rejected, expired, verified, unverified, published, failed, blocked, rolled_back.

export const initial = () => ({ workflows: new Map(), repairs: new Map(), cases: new Map(), rev: 0 });

export function apply(healing, event) {
  const { type, data = {} } = event;
  if (CHANGING.has(type)) healing.rev += 1;
  if (type === 'workflow_registered') workflow(healing, data.workflowId, { name: data.name, autonomy: data.autonomy });
  else if (type === 'autonomy_changed') workflow(healing, data.workflowId, { autonomy: data.autonomy });
  else if (type === 'workflow_error') failed(healing, event);
  else if (type.startsWith('repair_')) moved(healing, event, type.slice('repair_'.length));
  else if (type === 'rolled_back') rolledBack(healing, event);
  else if (type === 'notice' && event.repairId) step(repairOf(healing, event), event);
}

const CHANGING = new Set(['turn_finished', 'repair_decided', 'repair_published', 'repair_failed', 'rolled_back', 'workflow_registered']);

/** What a `welcome` says is so now: for workflows of which no event tells. */
export function welcome(healing, { workflows = [] }) {
  for (const { workflowId, name, autonomy } of workflows) {
    if (!healing.workflows.has(workflowId)) workflow(healing, workflowId, { name, autonomy });
  }
}

export const waiting = (healing) => [...healing.repairs.values()].filter((repair) => repair.state === 'waiting');

function workflow(healing, workflowId, changes) {
  const found = healing.workflows.get(workflowId) ?? { workflowId, name: workflowId, autonomy: null, failing: null };
  healing.workflows.set(workflowId, { ...found, ...changes });
}

function repairOf(healing, event) {
  const { data } = event;
  const repairId = data.repairId ?? event.repairId ?? `${data.workflowId}:${data.signature ?? ''}`;
  if (!healing.repairs.has(repairId)) {
    healing.repairs.set(repairId, { repairId, workflowId: data.workflowId, state: 'started', attempt: 0, count: 0, steps: [] });
  }
  return healing.repairs.get(repairId);
}

function step(repair, event) {
  const last = repair.steps.at(-1);
  if (last?.type === event.type && event.type === 'workflow_error') {
    Object.assign(last, { at: event.at, data: event.data, count: last.count + 1 });
  } else {
    repair.steps.push({ type: event.type, at: event.at, data: event.data, count: 1 });
  }
}

function failed(healing, event) {
  const { workflowId, workflowName, signature, error = {}, execution, repeatCount } = event.data;
  const node = execution?.lastNodeExecuted ?? error.node?.name;
  workflow(healing, workflowId, { failing: { node, message: error.message, at: event.at, executionUrl: execution?.url } });
  const key = `${workflowId}:${signature}`;
  const known = healing.cases.get(key) ?? { key, workflowId, signature, firstAt: event.at, count: 0, blocked: null };
  const count = Math.max(known.count, repeatCount ?? 1);
  healing.cases.set(key, { ...known, workflowName, error, node, executionUrl: execution?.url, count, lastAt: event.at });
  if (!event.repairId) return;
  const repair = repairOf(healing, event);
  const isFirst = repair.steps.length === 0;
  Object.assign(repair, { workflowName, signature, error, node, count: repeatCount });
  if (isFirst) repair.state = 'error';
  step(repair, event);
}

function moved(healing, event, kind) {
  const { data } = event;
  const found = kind === 'blocked' && healing.cases.get(`${data.workflowId}:${data.signature}`);
  if (found) found.blocked = { reason: data.reason, at: event.at };
  const repair = repairOf(healing, event);
  const { attempt, signature, summary, diff, reason, expiresAt, executionId, snapshotId, decision, workflowId } = data;
  const told = { attempt, signature, reason, expiresAt, executionId, snapshotId, decision, workflowId };
  for (const [key, value] of Object.entries(told)) if (value !== undefined) repair[key] = value;
  if (kind === 'diagnosed') repair.diagnosis = { kind: data.kind, summary };
  if (kind === 'proposed') Object.assign(repair, { diff, summary });
  repair.state = kind === 'decided' ? decision : kind;
  step(repair, event);
  if (kind === 'published') workflow(healing, repair.workflowId, { failing: null });
}

function rolledBack(healing, event) {
  for (const repair of healing.repairs.values()) {
    if (repair.snapshotId === event.data.snapshotId && repair.workflowId === event.data.workflowId) {
      repair.state = 'rolled_back';
      step(repair, event);
    }
  }
}
