/** A page that was taken over, and a folder with links that lead out of it. */

import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { decode, encode } from "../../../src/features/chat/decode";
import { filesIn, staysIn } from "../../../src/features/chat/files";
import { fromPage } from "../../../src/features/chat/protocol";
import { ConversationStore } from "../../../src/features/chat/store";
import { echo, kept, question, started, turn } from "./made";

const PICTURE = "data:image/png;base64,AAAA";
let place = "";

beforeAll(async () => {
  place = await mkdtemp(join(tmpdir(), "hostile-"));
  await mkdir(join(place, "chats"));
  await mkdir(join(place, "folder", ".git", "hooks"), { recursive: true });
  await mkdir(join(place, "outside"));
  await writeFile(join(place, "package.json"), "{}");
  await symlink(join(place, "outside"), join(place, "folder", "out"));
  await symlink(join(place, "folder", ".git"), join(place, "folder", "git"));
  await symlink(join(place, "folder"), join(place, "link"));
  await writeFile(join(place, "folder", "a.ts"), "");
});
afterAll(() => rm(place, { recursive: true }));

describe("a page that was taken over", () => {
  it.each(["../package", "../../etc/x", "a/../../package", "..", ".hidden", "a\\..\\..\\b", "x/y"])(
    "reaches no file but the conversations (%s)",
    async (id) => {
      const store = new ConversationStore(filesIn(join(place, "chats")));
      const { made, session } = await started(echo(), { store });
      for (const type of ["openConversation", "deleteConversation", "exportConversation"] as const)
        await session.handle({ type, id });
      await session.handle({ type: "renameConversation", id, title: "x" });
      await session.handle({ type: "restoreConversation", id });
      expect(await readFile(join(place, "package.json"), "utf8")).toBe("{}");
      expect(made.did).toEqual([]);
    },
  );

  it("sends no picture that the server would fetch, nor keeps one", () => {
    for (const image of [
      "http://169.254.169.254/",
      "file:///etc/passwd",
      "data:text/html;base64,AA",
      "data:image/svg+xml,<svg>",
    ])
      expect(fromPage(question("x", [], [PICTURE, image])), image).toBeUndefined();
    expect(fromPage(question("x", [], [PICTURE]))).toBeDefined();
    const read = decode(encode(kept("a", [turn("t", "x", "y", { images: [PICTURE, "http://10.0.0.1/"] })])));
    expect("kept" in read && read.kept.turns[0]?.images).toEqual([PICTURE]);
  });

  it("opens only what stands on a chip", async () => {
    const { made, session } = await started(echo(), {}, { "a.ts": "x" });
    await session.handle({ type: "openMention", id: "file:file:///etc/passwd" });
    await session.handle({ type: "openMention", id: "file:command:x", turn: "none" });
    expect(made.shown).toEqual([]);
  });

  it.each([
    null,
    "ready",
    [],
    { type: "toString" },
    { type: "__proto__" },
    { type: "command", name: "forgetKey" },
    { type: "command", name: ["setUp"] },
    { type: "ask", text: 1, mentions: [], images: [] },
    { type: "ask", text: "", mentions: [{}], images: [] },
    { type: "suggest", query: "", requestNumber: Number.NaN },
    { type: "decide", turn: "t", block: 0, accepted: "yes" },
    { type: "openLink" },
  ])("is not heard when it says %j", (message) => {
    expect(fromPage(message)).toBeUndefined();
  });
});

it.each([
  ["folder", "folder/a.ts", true],
  ["folder", "folder/new/b.ts", true],
  ["link", "link/a.ts", true],
  ["folder", "folder/out/a.ts", false],
  ["folder", "folder/out/new/a.ts", false],
  ["folder", "folder/git/hooks/pre-commit", false],
  ["folder", "outside/a.ts", false],
  ["folder", "folder/../package.json", false],
])("in %s, %s stays: %s", async (folder, file, stays) => {
  expect(await staysIn(join(place, folder), `${place}/${file}`)).toBe(stays);
});

it("a folder that is not trusted cannot say where things go", async () => {
  const { capabilities } = JSON.parse(await readFile(join(import.meta.dirname, "../../../package.json"), "utf8"));
  const restricted: readonly string[] = capabilities.untrustedWorkspaces.restrictedConfigurations;
  for (const name of ["url", "proxy", "caFile", "chat.instructions", "workspace.sync", "workspace.name"])
    expect(restricted).toContain(`aicockpit.${name}`);
});
