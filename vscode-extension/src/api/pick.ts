/** Which of the served models a feature uses. */

import { Fault } from "./fault";
import type { ConnectionState, Model } from "./gateway";

const NEITHER: ReadonlySet<string> = new Set(["embedding", "rerank"]);
// Only where the server tells no role: such models cannot write, and come last.
const SOUNDS_LIKE_EMBEDDING = /embed|rerank|\bbge\b|\bgte\b|\be5\b/i;

/**
 * `named` in the settings wins, listed or not: the server then says what is wrong with it. Else the first with the
 * role, else the first that may write. Undefined: none.
 */
export function pickModel(models: readonly Model[], role: "completion" | "chat", named: string): Model | undefined {
  if (named !== "") {
    return models.find((model) => model.id === named) ?? { id: named, maxLength: undefined, role: undefined };
  }
  const able = models.filter((model) => model.role === undefined || !NEITHER.has(model.role));
  const nameless = able.filter((model) => model.role !== undefined || !SOUNDS_LIKE_EMBEDDING.test(model.id));
  return able.find((model) => model.role === role) ?? nameless[0] ?? able[0];
}

/** Why there is no model for a chat or an edit: mostly the server cannot be asked for its models. */
export function noModel(state: ConnectionState): Fault {
  switch (state.kind) {
    case "no_key":
      return new Fault("unreachable", "AiCockpit has no key for its server yet.", "Set it up.");
    case "unauthorized":
      return new Fault("unauthorized", state.why, "Enter another key.");
    case "offline":
      return new Fault("unreachable", state.why, state.fix);
    default: {
      const why = state.kind === "no_model" ? state.why : "No chat model is served.";
      return new Fault("no_model", why, "Start one that can chat on the server, or name it in aicockpit.chat.model.");
    }
  }
}
