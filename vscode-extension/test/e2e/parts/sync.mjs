// With a key that may not have the server read its own disk, as at a remote server: the editor sends the folder itself.
import fs from "node:fs";
import path from "node:path";
import { until } from "../harness.mjs";
import { enterKey } from "./setup.mjs";

export default async function play({ desk, server, step, assert }) {
  const write = (name, text) => {
    fs.mkdirSync(path.dirname(path.join(desk.tree, name)), { recursive: true });
    fs.writeFileSync(path.join(desk.tree, name), text);
  };
  let key;
  const mine = async () => (await server.get("/api/workspaces", key)).workspaces[0];
  await step("stopping forgets the folder, here and at the server", async () => {
    await desk.command("AiCockpit: Stop Keeping This Folder Warm");
    await desk.page.locator(".monaco-dialog-box .monaco-button", { hasText: "Stop and Remove" }).click();
    await until(async () => (await server.get("/api/workspaces")).workspaces.length === 0, "no workspace");
    await desk.untilStatus(/ready/);
  });
  await step("a folder that the server may not read is sent by the editor", async () => {
    write(".gitignore", "*.log\n");
    write("noise.log", "not sent\n");
    write(".env", "TOKEN=not-sent\n");
    key = await server.makeKey("colleague");
    await enterKey(desk, key);
    await desk.command("AiCockpit: Keep This Folder Warm");
    await until(async () => (await mine())?.files >= 5, "a workspace of that key", 30_000);
    await desk.untilStatus(/: warm(?!ing)/, 60_000);
    await desk.picture("sync-pushed");
  });
  await step("a save reaches the server, ignored files and secrets never do", async () => {
    const before = (await mine()).revision;
    await desk.file("notes.md");
    await desk.keys("Control+End");
    await desk.type("A saved word.");
    await desk.save();
    await until(async () => (await mine()).revision > before, "a newer revision");
    const { files } = await mine();
    const sent = ["shop/cart.py", "shop/price.py", "main.py", "notes.md", ".gitignore"];
    const made = ["made.txt", "lines.txt"].filter((name) => fs.existsSync(path.join(desk.tree, name)));
    assert.equal(files, sent.length + made.length);
  });
}
