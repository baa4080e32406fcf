/** The shapes of the gateway's own answers. Each reader throws a Fault that names what is not as it should be. */

import { Fields, misshapen, text } from "./decode";
import type { Account, DocHit, DocSource, LaneStatus, ManifestAnswer, Model, WorkspaceStatus } from "./gateway";

/** A model as listed. `ready`: an engine has it in memory; undefined where the server does not tell (plain vLLM). */
export interface Listed extends Model {
  readonly ready: boolean | undefined;
}

/** `GET /v1/models`, without the `model@workspace` names. */
export function readModels(value: unknown): readonly Listed[] {
  const cards = new Fields(value, "models").list("data", (card, at) => new Fields(card, at));
  return cards
    .filter((card) => !card.has("workspace"))
    .map((card) => ({
      id: card.text("id"),
      maxLength: card.maybeNumber("max_model_len"),
      role: card.maybeText("role"),
      ready: card.maybeFlag("ready"),
    }));
}

/** `GET /api/requests/ID`. */
export function readAccount(value: unknown): Account {
  const account = new Fields(value, "request");
  return {
    id: account.text("id"),
    status: account.number("status"),
    engine: account.maybeText("engine"),
    choice: account.text("choice", ""),
    waitedS: account.maybeNumber("waited_s"),
    firstByteS: account.number("first_byte_s"),
    totalS: account.number("total_s"),
    context: readContext(account.maybeFields("context")),
  };
}

const SEGMENTS = ["header", "pack", "journal", "neighbourhood", "similar", "tail"] as const;

function readContext(context: Fields | undefined): Account["context"] {
  if (context === undefined) return undefined;
  const found = SEGMENTS.map((name) => [name, context.maybeNumber(`${name}_tokens`)] as const);
  const segments = found.filter((pair): pair is readonly [(typeof SEGMENTS)[number], number] => pair[1] !== undefined);
  return {
    workspace: context.maybeText("workspace"),
    why: context.text("reason", ""),
    promptTokens: context.maybeNumber("prompt_tokens"),
    predictedCached: context.maybeNumber("predicted_cached"),
    cachedTokens: context.maybeNumber("cached_tokens"),
    segments: Object.fromEntries(segments),
  };
}

/** `GET /api/workspaces/NAME`. */
export function readWorkspace(value: unknown): WorkspaceStatus {
  const workspace = new Fields(value, "workspace");
  const models = workspace.maybeFields("context")?.maybeFields("models");
  return {
    name: workspace.text("name"),
    revision: workspace.number("revision"),
    files: workspace.number("files"),
    bytes: workspace.number("bytes"),
    lanes: models === undefined ? [] : models.names().flatMap((model) => readLanes(model, models.fields(model))),
  };
}

function readLanes(model: string, one: Fields): readonly LaneStatus[] {
  const lanes = one.maybeFields("lanes");
  const reason = one.text("reason", "");
  if (lanes === undefined || lanes.names().length === 0) return [{ ...NOTHING, model, lane: "", state: "off", reason }];
  return lanes.names().map((lane) => readLane(model, lane, lanes.fields(lane)));
}

const NOTHING = {
  resident: undefined,
  packTokens: 0,
  filesInPack: 0,
  journalTokens: 0,
  predictedTtftS: undefined,
  lastSaveToWarmS: undefined,
};

function readLane(model: string, lane: string, status: Fields): LaneStatus {
  const engines = status.maybeFields("engines");
  const all = (engines?.names() ?? []).map((name) => engines?.maybeFields(name));
  const shares = all.map((engine) => engine?.maybeNumber("resident_fraction")).filter((share) => share !== undefined);
  const why = all.map((engine) => engine?.maybeText("reason") ?? "").find((reason) => reason !== "");
  const epoch = status.maybeFields("epoch") ?? status.maybeFields("next");
  return {
    model,
    lane,
    state: status.text("state"),
    reason: status.text("reason", "") || (why ?? ""),
    resident: shares.length === 0 ? undefined : Math.max(...shares),
    packTokens: epoch?.number("tokens", 0) ?? 0,
    filesInPack: epoch?.number("files_in_pack", 0) ?? 0,
    journalTokens: epoch?.number("journal_tokens", 0) ?? 0,
    predictedTtftS: status.maybeNumber("predicted_ttft_s"),
    lastSaveToWarmS: status.maybeNumber("last_save_to_warm_s"),
  };
}

/** What a manifest is answered with. */
export function readManifest(value: unknown): ManifestAnswer {
  const answer = new Fields(value, "answer");
  const missing = answer.list("missing", text, true);
  const wrong = missing.find((hash) => !/^[0-9a-f]{32}$/.test(hash));
  if (wrong !== undefined) throw misshapen(`“${wrong.slice(0, 40)}” among the missing is no hash`);
  return {
    applied: answer.flag("applied"),
    revision: answer.number("revision"),
    missing,
    missingCount: answer.number("missing_count", missing.length),
  };
}

const STATES: readonly string[] = ["queued", "fetching", "indexing", "ready", "failed", "cancelled"];

/** One source of documentation. */
export function readDoc(value: unknown, at = "source"): DocSource {
  const source = new Fields(value, at);
  const state = source.text("state");
  if (!isDocState(state)) throw misshapen(`${at}.state is “${state.slice(0, 40)}”, which is not known here`);
  const progress = source.maybeFields("progress");
  return {
    id: source.text("id"),
    name: source.text("name"),
    from: source.text("from", ""),
    state,
    pages: source.number("pages", 0),
    chunks: source.number("chunks", 0),
    problems: source.list("problems", text, true),
    error: source.maybeText("error"),
    ...(progress && { progress: { known: progress.number("known", 0), current: progress.text("current", "") } }),
  };
}

function isDocState(state: string): state is DocSource["state"] {
  return STATES.includes(state);
}

/** `GET /api/docs`. */
export function readDocs(value: unknown): readonly DocSource[] {
  return new Fields(value, "answer").list("docs", readDoc);
}

/** `POST /api/docs/search`. */
export function readHits(value: unknown): readonly DocHit[] {
  return new Fields(value, "answer").list("hits", (hit, at) => {
    const found = new Fields(hit, at);
    return {
      source: found.text("source"),
      title: found.text("title", ""),
      url: found.text("url", ""),
      text: found.text("text"),
      score: found.number("score", 0),
    };
  });
}
