/** Whether to complete here and now at all; if not, why not. Pure. */

import { isSecretPath } from "../workspace/rules";

export interface Circumstances {
  readonly explicit: boolean;
  readonly trigger: "automatic" | "manual" | "off";
  readonly languages: Readonly<Record<string, boolean>>;
  readonly language: string;
  readonly snoozed: string;
  /** The file's path in the workspace. */
  readonly path: string;
  /** Why the server cannot answer; empty: it can. */
  readonly unready: string;
}

/** A reason to answer nothing; undefined: go on. */
export function refusal(now: Circumstances): string | undefined {
  if (now.trigger === "off") return "completion is switched off in the settings";
  if (!now.explicit) {
    if (now.trigger === "manual") return "completion waits for its key (setting: manual)";
    if (!isOn(now.languages, now.language)) return `completion is off for ${now.language}`;
    if (now.snoozed !== "") return `completion is snoozed ${now.snoozed}`;
    if (isSecretPath(now.path)) return "this file may hold secrets: nothing is sent until you ask";
  }
  return now.unready === "" ? undefined : now.unready;
}

/** A language's own word, else that of `*`. */
export function isOn(languages: Readonly<Record<string, boolean>>, language: string): boolean {
  return languages[language] ?? languages["*"] ?? true;
}
