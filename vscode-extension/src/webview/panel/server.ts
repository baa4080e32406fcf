/** The server's part: connection, models, engines, and how warm the folder is. */

import { count, milliseconds, percent, shownBytes } from "../../features/figures";
import type { LaneView, PanelCommand, ServerView } from "../../features/panelProtocol";
import { type Child, h, textButton } from "../chat/h";

type Run = (command: PanelCommand) => void;

export function serverPart(server: ServerView | undefined, run: Run): readonly Child[] {
  if (server === undefined) return [];
  return [
    h(
      "div",
      { class: "line" },
      h("h1", {}, "Why slow, why nothing"),
      h("span", { class: `state ${server.state.replace(/\W/g, "-")}` }, server.state),
      h("code", {}, server.address),
      h("span", { class: "space" }),
      textButton("Check the connection", { class: "secondary", onclick: () => run("check") }),
      textButton("Show the log", { class: "secondary", onclick: () => run("log") }),
    ),
    server.problem !== "" && h("p", { class: "problem", role: "alert" }, server.problem),
    h("dl", { class: "facts" }, ...facts(server)),
    ...warmth(server, run),
  ];
}

function facts(server: ServerView): readonly Child[] {
  const models = server.models.map(({ id, role, maxLength }) => {
    const more = [role, maxLength === undefined ? undefined : `${count(maxLength)} tokens`].filter(
      (one) => one !== undefined,
    );
    return more.length === 0 ? id : `${id} (${more.join(", ")})`;
  });
  const engines = server.engines.map(([engine, requests]) => `${engine} (${requests} of the requests below)`);
  return [
    ...fact("Models", models.join(", ")),
    ...fact("Engines", engines.join(", ")),
    ...fact("Folder", server.folder === undefined ? "" : folderWords(server.folder)),
  ];
}

function folderWords(folder: NonNullable<ServerView["folder"]>): string {
  const how = { server: "read by the server itself", pushing: "sent by this editor", paused: "paused" }[folder.how];
  const warm = folder.warm === undefined ? "" : ` ${percent(folder.warm)}`;
  return [`${folder.name}: ${folder.state}${warm}, ${how}`, folder.why].filter((part) => part !== "").join("; ");
}

function fact(label: string, value: string): readonly Child[] {
  return value === "" ? [] : [h("dt", {}, label), h("dd", {}, value)];
}

function warmth(server: ServerView, run: Run): readonly Child[] {
  const { workspace, folder } = server;
  if (workspace === undefined) {
    if (folder !== undefined || server.state !== "connected") return [];
    return [
      h(
        "p",
        { class: "hint" },
        "This folder is not kept warm: every prompt's beginning is computed anew. ",
        textButton("Keep it warm", { class: "secondary", onclick: () => run("workspace.sync") }),
      ),
    ];
  }
  return [
    h(
      "table",
      { class: "lanes" },
      h(
        "caption",
        {},
        `${workspace.name}: ${count(workspace.files)} files, ${shownBytes(workspace.bytes)}, revision ${workspace.revision}`,
      ),
      h("thead", {}, h("tr", {}, ...HEADS.map((head) => h("th", { scope: "col" }, head)))),
      h("tbody", {}, ...workspace.lanes.map(laneRow)),
    ),
  ];
}

const HEADS = ["Model", "For", "State", "In the cache", "Pack", "Files", "Journal", "First word", "Save to warm"];

function laneRow(lane: LaneView): HTMLElement {
  const cells = [
    lane.model,
    lane.lane,
    lane.reason === "" ? lane.state : `${lane.state}: ${lane.reason}`,
    percent(lane.resident),
    `${count(lane.packTokens)} tokens`,
    count(lane.filesInPack),
    `${count(lane.journalTokens)} tokens`,
    lane.predictedTtftS === undefined ? "" : milliseconds(lane.predictedTtftS * 1000),
    lane.lastSaveToWarmS === undefined ? "" : milliseconds(lane.lastSaveToWarmS * 1000),
  ];
  return h("tr", {}, ...cells.map((cell, at) => h("td", { "data-head": HEADS[at] }, cell === "" ? "–" : cell)));
}
