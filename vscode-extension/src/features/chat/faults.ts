/** Errors as the page shows them. */

import { Fault } from "../../api/fault";
import type { ConnectionView, FaultView, PageCommand } from "./protocol";

const REMEDY: Readonly<Partial<Record<Fault["kind"], PageCommand>>> = {
  dns: "setUp",
  refused: "check",
  unreachable: "check",
  tls: "check",
  proxy: "check",
  unauthorized: "setKey",
  not_found: "setUp",
  no_model: "check",
};

/** What happened and what to do; of an error that is not ours, its message. */
export function faultView(error: unknown): FaultView {
  if (error instanceof Fault) {
    const command = REMEDY[error.kind];
    return { message: error.message, fix: error.fix, ...(command && { command }) };
  }
  const message = error instanceof Error && error.message !== "" ? error.message : String(error);
  return { message: `Something went wrong in the extension: ${message}`, fix: "Try again; the log has more." };
}

/** Why there is no model, by the state of the connection. */
export function withoutModel({ kind, why, fix }: ConnectionView): FaultView {
  if (kind === "ready" || kind === "unknown" || why === "") {
    const start = "Start one on the server, or name one in aicockpit.chat.model.";
    return { message: "The server has no model that chats.", fix: start, command: "check" };
  }
  const command = kind === "no_key" || kind === "unauthorized" ? "setKey" : "check";
  return { message: why, fix, command };
}

/** One line. */
export function sentenceOf(error: unknown): string {
  const { message, fix } = faultView(error);
  return [message, fix].filter((part) => part !== "").join(" ");
}

/** The server refused the prompt for its length. The tokens that it counted, or 0 where it did not count them all. */
export function countedTooLong(error: unknown): number | undefined {
  if (!(error instanceof Fault) || error.kind !== "bad_request") return undefined;
  const text = `${error.message} ${error.code ?? ""}`;
  if (
    !/context (?:length|window)|maximum (?:model|input) length|max_model_len|too long|too many tokens|context_length/i.test(
      text,
    )
  ) {
    return undefined;
  }
  const inMessages =
    /(\d[\d,]*) (?:tokens )?in the (?:messages|prompt|input)|(?:contains|has|prompt of) (\d[\d,]*) (?:input )?tokens/i.exec(
      text,
    );
  return Number((inMessages?.[1] ?? inMessages?.[2] ?? "0").replaceAll(",", ""));
}
