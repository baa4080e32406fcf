/** The server's part of the panel: connection, models, engines, and how warm the folder is. Pure. */

import type { Model, WorkspaceStatus } from "../api/gateway";
import type { ServerView } from "./panelProtocol";
import type { ConnectionState, FolderStatus } from "./states";

export interface ServerInput {
  readonly address: string;
  readonly connection: ConnectionState;
  /** As far as the connection has them. */
  readonly models: readonly Model[];
  readonly engines: readonly (readonly [engine: string, requests: number])[];
  readonly folder: FolderStatus | undefined;
  readonly workspace: WorkspaceStatus | undefined;
  /** Why the workspace could not be asked for; empty: it could. */
  readonly workspaceProblem: string;
}

const STATES: Readonly<Record<ConnectionState["kind"], string>> = {
  unknown: "connecting",
  ready: "connected",
  no_key: "no key",
  unauthorized: "unauthorised",
  offline: "offline",
  no_model: "no model",
};

/** What stands above the list of requests. */
export function serverView(input: ServerInput): ServerView {
  const { address, connection, models, engines, folder, workspace } = input;
  return {
    address,
    state: STATES[connection.kind],
    problem: problemOf(connection) || input.workspaceProblem || folderProblem(folder),
    models: models.map(({ id, role, maxLength }) => ({ id, role, maxLength })),
    engines,
    folder,
    workspace:
      workspace === undefined
        ? undefined
        : {
            name: workspace.name,
            files: workspace.files,
            bytes: workspace.bytes,
            revision: workspace.revision,
            lanes: workspace.lanes,
          },
  };
}

function problemOf(connection: ConnectionState): string {
  switch (connection.kind) {
    case "no_key":
      return "No key is stored for this server.";
    case "unauthorized":
    case "no_model":
      return connection.why;
    case "offline":
      return `${connection.why} ${connection.fix}`.trim();
    default:
      return "";
  }
}

function folderProblem(folder: FolderStatus | undefined): string {
  return folder?.state === "failed" ? folder.why : "";
}
