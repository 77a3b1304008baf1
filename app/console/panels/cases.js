// Failures as people think of them: one case for all that are equal, with each attempt to repair it.
//
// case:    {key, workflowId, workflowName, signature, error?, node?, executionUrl?, count, firstAt, lastAt, blocked, attempts, state}
// attempt: as `attemptOf` makes it; its `state` as in healing-state.js, or `retrying`, `not_a_bug`, `over`
// Made of the session's events, and of what `GET …/repairs` tells: of what lies before the events that are here, and more.

// What the bridge's record calls a state, in the words of events, and what no event tells.
const RECORDED = { queued: 'error', running: 'started', trying: 'proposed', restoring: 'proposed', publishing: 'approved' };
const UNTOLD = ['retrying', 'not_a_bug'];

/** Newest first. `records`: as `GET …/repairs` answers. */
export function casesOf({ cases, repairs }, records) {
  const known = new Map(records.map((record) => [record.repairId, record]));
  const found = new Map([...cases].map(([key, one]) => [key, { ...one, attempts: [] }]));
  for (const repairId of new Set([...repairs.keys(), ...known.keys()])) {
    const attempt = attemptOf(repairs.get(repairId), known.get(repairId));
    // Without its signature it is not known yet what it answers; the record will tell. A blocked case is no attempt.
    if (!attempt.signature || repairId === attempt.key) continue;
    if (!found.has(attempt.key)) {
      const { key, workflowId, workflowName, signature, at } = attempt;
      found.set(key, { key, workflowId, workflowName, signature, count: 0, firstAt: at, lastAt: at, blocked: null, attempts: [] });
    }
    const one = found.get(attempt.key);
    one.attempts.push(attempt);
    if (attempt.at < one.firstAt || !one.firstAt) one.firstAt = attempt.at;
  }
  return [...found.values()].map(concluded).sort((a, b) => (a.movedAt < b.movedAt ? 1 : -1));
}

function concluded(one) {
  one.attempts.sort((a, b) => (a.at > b.at ? 1 : -1));
  const last = one.attempts.at(-1);
  // One that was begun after that is the one more try.
  if (one.blocked && last && last.at > one.blocked.at) one.blocked = null;
  one.state = one.blocked ? 'blocked' : last?.state ?? 'recorded';
  // A service was away, and the run that failed has been repeated.
  if (one.state === 'not_a_bug' && last.executionId) one.state = last.state = 'over';
  one.movedAt = [one.lastAt, one.blocked?.at, last?.movedAt].filter(Boolean).sort().at(-1) ?? '';
  return one;
}

function attemptOf(told = { steps: [] }, record = {}) {
  const of = (type) => told.steps.findLast((step) => step.type === type);
  const verdict = of('repair_unverified') ?? of('repair_verified');
  const isUntold = told.state === 'diagnosed' && UNTOLD.includes(record.state);
  const workflowId = told.workflowId ?? record.workflowId;
  const signature = told.signature ?? record.signature;
  const failed = of('repair_failed');
  return {
    repairId: told.repairId ?? record.repairId,
    key: `${workflowId}:${signature}`,
    workflowId,
    signature,
    workflowName: told.workflowName ?? record.workflowName,
    state: isUntold ? record.state : told.state ?? RECORDED[record.state] ?? record.state,
    attempt: told.attempt || record.attempt || 1,
    at: record.times?.queued ?? told.steps[0]?.at ?? record.at ?? '',
    movedAt: told.steps.at(-1)?.at ?? record.at ?? '',
    kind: told.diagnosis?.kind ?? record.kind,
    found: told.diagnosis?.summary,
    told: told.diff ? told.summary : record.summary,
    diff: told.diff ?? (record.diff?.length ? record.diff : undefined),
    asked: record.asked ?? [],
    refusals: record.refusals ?? [],
    verified: verdict ? verdict.type === 'repair_verified' : record.decidedBy === 'bridge' && Boolean(record.times.published),
    doubt: verdict?.type === 'repair_unverified' ? verdict.data.reason : undefined,
    reason: failed?.data.reason ?? told.reason ?? record.reason,
    expiresAt: told.expiresAt,
    decidedBy: of('repair_decided')?.data.by ?? record.decidedBy,
    executionId: told.executionId ?? record.executionId,
    snapshotId: told.snapshotId ?? record.snapshotId,
    costUsd: record.costUsd,
    retries: record.retries ?? 0,
    notes: told.steps.filter((step) => step.type === 'notice').map((step) => step.data.text),
    times: { ...record.times, ...Object.fromEntries(told.steps.map((step) => [step.type, step.at])) },
  };
}

const PASSING = new Set(['error', 'started', 'proposed', 'verified', 'approved']);
const isPassing = ({ state, diagnosis, signature }) => signature && (PASSING.has(state) || (state === 'diagnosed' && ['workflow_bug', 'unknown'].includes(diagnosis.kind)));

/** Another where the records should be asked for again: something has come to an end, or is told by the record only. */
export const askFor = ({ repairs }) => JSON.stringify([...repairs.values()].filter((one) => !isPassing(one)).map((one) => [one.repairId, one.state, one.steps.length]));
