/** What the box shows under a command, and what may be done with it. Pure. */

import { fromBox, hasControls } from "./hidden";
import { classify, headline, type Risk } from "./risk";
import type { Dialect } from "./words";

/** `info`, `warning`: how the editor colours the line under the box. */
export interface Under {
  readonly severity: "info" | "warning";
  readonly message: string;
}

export type Act = "run" | "insert" | "copy";

/** What an act comes to. `ask`: first a question that must be answered by choosing. */
export type Step =
  | { readonly do: "nothing"; readonly why: string }
  | { readonly do: "run" | "insert" | "copy"; readonly command: string }
  /** Typing it into the terminal would start it: it goes to the clipboard instead. */
  | { readonly do: "copy instead"; readonly command: string; readonly why: string }
  | { readonly do: "ask"; readonly command: string; readonly question: string; readonly detail: string };

/** The line under what stands in the box now. The editor shows it instead of a prompt: so `explanation` is part of it. */
export function underBox(shown: string, dialect: Dialect, explanation = ""): Under {
  const command = fromBox(shown);
  const said = explanation === "" ? "" : `${explanation} `;
  if (command.trim() === "")
    return { severity: "info", message: withoutLinks(`${said}Type a command, or press Escape.`) };
  const risk = classify(command, dialect);
  const how = risk.level === "dangerous" ? "Enter asks once more." : "Enter runs it.";
  const message = withoutLinks(`${said}${headline(risk)} ${how}`.replace(/([^.…]) (Enter )/, "$1. $2"));
  return { severity: risk.level === "safe" ? "info" : "warning", message };
}

/** For a place where the editor makes links of `[text](command:…)`: text from a model or a server must not become one. */
export function withoutLinks(text: string): string {
  return text.replaceAll("](", "] (");
}

/** What follows when the user wants to `act` on what stands in the box. Nothing dangerous runs without a second choice. */
export function stepFor(act: Act, shown: string, dialect: Dialect): Step {
  const command = fromBox(shown);
  if (command.trim() === "") return { do: "nothing", why: "There is no command." };
  if (act === "copy") return { do: "copy", command };
  if (act === "insert") {
    if (!hasControls(command)) return { do: "insert", command };
    return {
      do: "copy instead",
      command,
      why: "The command has several lines or hidden characters: the terminal would run a part of it at once. It is in the clipboard instead.",
    };
  }
  const risk = classify(command, dialect);
  if (risk.level !== "dangerous") return { do: "run", command };
  return { do: "ask", command, question: "Run this dangerous command?", detail: detailOf(shown, risk) };
}

function detailOf(shown: string, risk: Risk): string {
  const reasons = risk.findings
    .filter((finding) => finding.level === "dangerous")
    .map((finding) => `• It ${finding.reason}.`);
  const command = shown.length <= 1000 ? shown : `${shown.slice(0, 1000)}…`;
  return `${command.replaceAll("⏎", "⏎\n")}\n\n${reasons.join("\n")}`;
}
