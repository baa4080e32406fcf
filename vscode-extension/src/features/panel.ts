/** "Why slow, why nothing": what became of each request, as rows with a time line and a sentence. Pure. */

import type { Account } from "../api/gateway";
import { count, milliseconds, percent } from "./figures";
import { contextSentence, type PanelRow, type Segment, type Summary, type Tokens, type Tone } from "./panelProtocol";
import type { Feature, Trace } from "./timeline";

/** Milliseconds from which a request counts as slow: completions until shown, the others until the first word. */
export const SLOW_MS: Readonly<Record<Feature, number>> = {
  completion: 300,
  edit: 1500,
  chat: 1500,
  terminal: 1500,
  docs: 3000,
};

const SUPERSEDED = new Set(["superseded", "replaced"]);
const STOPPED = new Set(["stopped", "aborted", "cancelled", "dismissed", "left", "unused"]);
const NOTHING = new Set(["nothing", "empty", "dropped", "filtered"]);
const LOCAL = new Set(["typed through", "cached", "reused", "local"]);

/** One request as the panel shows it. `account`: what the server tells of it, null: it knows nothing, undefined: not asked. */
export function rowOf(trace: Trace, account: Account | null | undefined): PanelRow {
  const tokens = tokensOf(trace, account ?? undefined);
  const segments = segmentsOf(trace, account ?? undefined);
  const { tone, verdict } = verdictOf(trace, account ?? undefined, segments, tokens);
  return {
    id: trace.id,
    feature: trace.feature,
    at: trace.at,
    model: trace.model,
    what: trace.what,
    outcome: trace.outcome,
    tone,
    verdict,
    totalMs: lastMs(trace),
    feltMs: feltMs(trace),
    segments,
    ...(tokens !== undefined && { tokens }),
    ...(trace.requestId !== undefined && { requestId: trace.requestId }),
    asked: trace.requestId === undefined || account !== undefined,
    facts: factsOf(trace, account, tokens),
  };
}

/** What the user waited for: a completion on the screen, the first word of anything else. Milliseconds. */
export function feltMs(trace: Trace): number | undefined {
  if (trace.feature === "completion") return trace.shownMs ?? trace.lastTokenMs;
  return trace.firstTokenMs ?? trace.shownMs;
}

function lastMs(trace: Trace): number | undefined {
  const known = [trace.sentMs, trace.headersMs, trace.firstTokenMs, trace.lastTokenMs, trace.shownMs];
  const times = known.filter((time) => time !== undefined);
  return times.length === 0 ? undefined : Math.max(...times);
}

/** The parts of a request's time, in their order, none of them negative. */
export function segmentsOf(trace: Trace, account: Account | undefined): readonly Segment[] {
  const segments: Segment[] = [];
  let at = 0;
  const until = (kind: Segment["kind"], end: number | undefined) => {
    if (end === undefined || !Number.isFinite(end) || end <= at) return;
    segments.push({ kind, fromMs: at, ms: end - at });
    at = end;
  };
  if (trace.sentMs === undefined) {
    until("display", trace.shownMs);
    return segments;
  }
  until("here", trace.sentMs);
  const answered = trace.firstTokenMs ?? trace.headersMs;
  if (answered !== undefined) {
    const whole = answered - trace.sentMs;
    const inside = account === undefined ? undefined : Math.min(whole, account.firstByteS * 1000);
    const waited = account?.waitedS === undefined ? 0 : Math.min(inside ?? 0, account.waitedS * 1000);
    if (inside !== undefined) until("network", trace.sentMs + whole - inside);
    until("gateway", at + waited);
    until("engine", answered);
  }
  until("decode", trace.lastTokenMs);
  until("display", trace.shownMs);
  return segments;
}

/** The engine's own count comes first, then the server's account of it. */
export function tokensOf(trace: Trace, account: Account | undefined): Tokens | undefined {
  const prompt = trace.usage?.prompt ?? account?.context?.promptTokens;
  if (prompt === undefined) return undefined;
  const told = trace.usage?.cached ?? account?.context?.cachedTokens;
  const cached = told === undefined ? undefined : Math.min(told, prompt);
  return {
    prompt,
    ...(cached !== undefined && { cached, computed: prompt - cached }),
    ...(trace.usage !== undefined && { written: trace.usage.completion }),
  };
}

interface Verdict {
  readonly tone: Tone;
  readonly verdict: string;
}

function verdictOf(
  trace: Trace,
  account: Account | undefined,
  segments: readonly Segment[],
  tokens: Tokens | undefined,
): Verdict {
  const { outcome } = trace;
  const why = trace.why.trim();
  const after = lastMs(trace);
  const late = after === undefined ? "" : ` after ${milliseconds(after)}`;
  if (outcome === "running") return { tone: "running", verdict: runningSentence(trace) };
  if (outcome === "failed") return { tone: "failed", verdict: `failed: ${why || "the reason is not known"}` };
  if (SUPERSEDED.has(outcome)) return { tone: "quiet", verdict: `superseded by a newer keystroke${late}` };
  if (STOPPED.has(outcome)) return { tone: "quiet", verdict: `${outcome}${late}${why === "" ? "" : `: ${why}`}` };
  if (NOTHING.has(outcome)) return { tone: "nothing", verdict: `nothing shown: ${why || "the answer was empty"}` };
  if (LOCAL.has(outcome))
    return { tone: "good", verdict: `${outcome}: no request was needed${why === "" ? "" : ` (${why})`}` };
  const felt = feltMs(trace);
  if (felt !== undefined && felt >= SLOW_MS[trace.feature]) {
    return { tone: "slow", verdict: `slow: ${slowSentence(trace, account, segments, tokens, felt)}` };
  }
  return { tone: "good", verdict: goodSentence(trace, tokens, felt) };
}

function runningSentence(trace: Trace): string {
  if (trace.firstTokenMs !== undefined) return "the answer is coming";
  return trace.sentMs === undefined ? "being prepared" : "waiting for the first word";
}

function goodSentence(trace: Trace, tokens: Tokens | undefined, felt: number | undefined): string {
  const time = felt === undefined ? "" : ` after ${milliseconds(felt)}`;
  const share =
    tokens?.cached === undefined || tokens.prompt <= 0
      ? ""
      : `, ${percent(tokens.cached / tokens.prompt)} of the prompt was cached`;
  return `${trace.outcome}${time}${share}`;
}

/** The part that took longest, until what the user waited for, and why it did. */
function slowSentence(
  trace: Trace,
  account: Account | undefined,
  segments: readonly Segment[],
  tokens: Tokens | undefined,
  felt: number,
): string {
  const before = segments.map((segment) => ({ ...segment, ms: Math.min(segment.ms, felt - segment.fromMs) }));
  const longest = before.reduce<Segment | undefined>(
    (one, other) => (one === undefined || other.ms > one.ms ? other : one),
    undefined,
  );
  if (longest === undefined || longest.ms <= 0) return `shown after ${milliseconds(felt)}; nothing more was measured`;
  const part = `${milliseconds(longest.ms)} of ${milliseconds(felt)}`;
  switch (longest.kind) {
    case "here":
      return `${part} passed here, before the request left`;
    case "network":
      return `${part} passed on the way to the server and back`;
    case "gateway":
      return `${part} were spent waiting at the gateway${account?.choice ? ` (${account.choice})` : ""}`;
    case "engine":
      return engineSentence(trace, account, tokens, part);
    case "decode":
      return `${part} went into writing${tokens?.written === undefined ? "" : ` ${count(tokens.written)} tokens`}${speedOf(trace)}`;
    case "display":
      return `${part} passed between the last word and the screen`;
  }
}

function engineSentence(trace: Trace, account: Account | undefined, tokens: Tokens | undefined, part: string): string {
  if (tokens?.computed === undefined) {
    return `${part} passed until the first word; how much of the prompt was cached is not known`;
  }
  if (tokens.computed * 4 >= tokens.prompt) {
    const figures = `${count(tokens.computed)} of ${count(tokens.prompt)} prompt tokens were computed`;
    return `${figures}, ${contextSentence(trace.context ?? account?.context?.why)}`;
  }
  const figures = `${count(tokens.cached ?? 0)} of ${count(tokens.prompt)} prompt tokens were cached`;
  return `${part} passed until the first word although ${figures}: the engine was busy with other requests, or is slow`;
}

/** ` (45 a second)`; empty where it was not measured. */
function speedOf(trace: Trace): string {
  const { usage, firstTokenMs, lastTokenMs } = trace;
  if (usage === undefined || firstTokenMs === undefined || lastTokenMs === undefined) return "";
  const seconds = (lastTokenMs - firstTokenMs) / 1000;
  return seconds > 0 && usage.completion > 1 ? ` (${Math.round((usage.completion - 1) / seconds)} a second)` : "";
}

/** What is shown when a row is opened, and what an operator may ask for. */
function factsOf(trace: Trace, account: Account | null | undefined, tokens: Tokens | undefined): PanelRow["facts"] {
  const { context, route, model, requestId, why } = trace;
  const known = account?.context;
  const facts: (readonly [string, string | undefined])[] = [
    ["Why", why],
    ["Request", requestId],
    ["Model", model],
    ["Engine", account?.engine],
    ["Chosen because", account?.choice],
    ["Route", route === account?.choice ? undefined : route],
    ["Context", context ?? known?.why],
    ["Workspace", known?.workspace],
    ["In front of the request", known === undefined ? undefined : partsOf(known.segments)],
    ["Prompt tokens", tokens === undefined ? undefined : tokenSentence(tokens)],
    [
      "Expected to be cached",
      known?.predictedCached === undefined ? undefined : `${count(known.predictedCached)} tokens`,
    ],
    ["Written", tokens?.written === undefined ? undefined : `${count(tokens.written)} tokens${speedOf(trace)}`],
    ["Server's own time", account === undefined || account === null ? undefined : serverTime(account)],
    ["Status", account === undefined || account === null ? undefined : String(account.status)],
    ["Server", account === null ? "knows nothing of it any more: only the newest requests are kept" : undefined],
  ];
  return facts.filter((fact): fact is readonly [string, string] => fact[1] !== undefined && fact[1] !== "");
}

function tokenSentence(tokens: Tokens): string {
  if (tokens.cached === undefined) return `${count(tokens.prompt)}; how many were cached is not known`;
  return `${count(tokens.prompt)}: ${count(tokens.cached)} cached, ${count(tokens.computed ?? 0)} computed`;
}

function partsOf(segments: Readonly<Record<string, number>>): string {
  return Object.entries(segments)
    .filter(([, tokens]) => tokens > 0)
    .map(([name, tokens]) => `${name} ${count(tokens)}`)
    .join(", ");
}

function serverTime(account: Account): string {
  const waited = account.waitedS === undefined ? "" : `waited ${milliseconds(account.waitedS * 1000)}, `;
  return `${waited}first byte after ${milliseconds(account.firstByteS * 1000)}, ${milliseconds(account.totalS * 1000)} in all`;
}

/** Of all rows, and of each feature that has any. */
export function summariesOf(rows: readonly PanelRow[]): Readonly<Record<string, Summary>> {
  const groups: Record<string, PanelRow[]> = { all: [...rows] };
  for (const row of rows) {
    const group = groups[row.feature];
    if (group === undefined) groups[row.feature] = [row];
    else group.push(row);
  }
  return Object.fromEntries(Object.entries(groups).map(([name, group]) => [name, summaryOf(group)]));
}

function summaryOf(rows: readonly PanelRow[]): Summary {
  // What was typed through asked nobody: it would make the server look quicker than it is.
  const waited = rows.filter((row) => !LOCAL.has(row.outcome) && (row.tone === "good" || row.tone === "slow"));
  const times = waited.map((row) => row.feltMs).filter((time) => time !== undefined);
  const known = rows.map((row) => row.tokens).filter((tokens) => tokens?.cached !== undefined);
  const prompt = known.reduce((sum, tokens) => sum + (tokens?.prompt ?? 0), 0);
  const cached = known.reduce((sum, tokens) => sum + (tokens?.cached ?? 0), 0);
  const outcomes = new Map<string, number>();
  for (const row of rows) outcomes.set(row.outcome, (outcomes.get(row.outcome) ?? 0) + 1);
  const [p50Ms, p95Ms] = [quantile(times, 0.5), quantile(times, 0.95)];
  return {
    requests: rows.length,
    measured: times.length,
    ...(p50Ms !== undefined && { p50Ms }),
    ...(p95Ms !== undefined && { p95Ms }),
    ...(prompt > 0 && { hitShare: cached / prompt }),
    slow: rows.filter((row) => row.tone === "slow").length,
    nothing: rows.filter((row) => row.tone === "nothing").length,
    outcomes: [...outcomes].sort((one, other) => other[1] - one[1]),
  };
}

/** The nearest rank; undefined of nothing. */
export function quantile(values: readonly number[], share: number): number | undefined {
  const sorted = [...values].sort((one, other) => one - other);
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(share * sorted.length) - 1))];
}
