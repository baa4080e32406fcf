// A described command: shown with its risk, run only after a yes.
import fs from "node:fs";
import path from "node:path";
import { until } from "../harness.mjs";

const LARGEST = ["the three largest files", "du -a", "Lists the three largest files here"];
const REMOVE = ["remove everything in build", "rm -rf", "Removes the build folder"];

/** Until the answer is complete: with its explanation. Enter does nothing before. */
async function describe(desk, [text, command, explained]) {
  await desk.command("AiCockpit: Describe a Command");
  const input = desk.page.locator(".quick-input-widget input").first();
  await input.waitFor({ state: "visible" });
  await desk.type(text, 5);
  await desk.keys("Enter");
  await until(async () => (await value(desk)).startsWith(command), "the command in the box");
  await desk.page.locator(".quick-input-widget", { hasText: explained }).first().waitFor();
}

const box = (desk) => desk.page.locator(".quick-input-widget input").first();
const value = (desk) => box(desk).inputValue();

export default async function play({ desk, step, assert }) {
  await step("a command is proposed, with what it does", async () => {
    await describe(desk, LARGEST);
    await desk.picture("terminal");
  });
  await step("Escape runs nothing", async () => {
    await desk.keys("Escape");
    assert.equal(await desk.page.locator(".terminal-wrapper").count(), 0);
  });
  await step("Enter runs what stands in the box, as it was changed", async () => {
    await describe(desk, LARGEST);
    await box(desk).fill("echo made-by-hand > made.txt");
    await desk.keys("Enter");
    const made = () => fs.existsSync(path.join(desk.tree, "made.txt")) && desk.read("made.txt") !== "";
    await until(made, "the command ran", 20_000);
    assert.equal(desk.read("made.txt").trim(), "made-by-hand");
  });
  await step("the next command goes to the same terminal, several lines of it too", async () => {
    await describe(desk, LARGEST);
    await box(desk).fill("echo one > lines.txt⏎echo two >> lines.txt");
    await desk.keys("Enter");
    await desk.page.locator(".monaco-dialog-box .monaco-button", { hasText: "Run anyway" }).click();
    await until(
      () => fs.existsSync(path.join(desk.tree, "lines.txt")) && desk.read("lines.txt") === "one\ntwo\n",
      "both",
    );
    assert.equal(await desk.page.locator(".terminal-wrapper").count(), 1);
    await desk.picture("terminal-ran");
  });
  const dialog = desk.page.locator(".monaco-dialog-box", { hasText: "Run anyway" });
  const asked = async () => {
    await describe(desk, REMOVE);
    await desk.keys("Enter");
    await dialog.waitFor();
  };
  await step("a dangerous command asks once more, and Enter goes back to it", async () => {
    fs.mkdirSync(path.join(desk.tree, "build"), { recursive: true });
    await describe(desk, REMOVE);
    await desk.picture("terminal-danger");
    await desk.keys("Enter");
    await dialog.waitFor();
    await desk.picture("terminal-ask");
    await desk.keys("Enter");
    await box(desk).waitFor({ state: "visible" });
    await until(async () => (await value(desk)).startsWith("rm -rf"), "the command in the box again");
    assert.ok(fs.existsSync(path.join(desk.tree, "build")));
    await desk.keys("Escape");
    await box(desk).waitFor({ state: "hidden" });
  });
  await step("Cancel and Escape end it", async () => {
    for (const end of [
      () => dialog.locator(".monaco-button", { hasText: "Cancel" }).click(),
      () => desk.keys("Escape"),
    ]) {
      await asked();
      await end();
      await dialog.waitFor({ state: "hidden" });
      const again = box(desk).waitFor({ state: "visible", timeout: 1_000 });
      await assert.rejects(again, /Timeout/, "the box came back");
    }
    assert.ok(fs.existsSync(path.join(desk.tree, "build")));
  });
  await step("a dangerous command runs when it was said so", async () => {
    await asked();
    await dialog.locator(".monaco-button", { hasText: "Run anyway" }).click();
    await until(() => !fs.existsSync(path.join(desk.tree, "build")), "it ran");
  });
  await step("Ctrl+K in a focused terminal opens the box, and the shell does not get the key", async () => {
    await desk.clear();
    await desk.command("Terminal: Focus Terminal");
    await desk.page.locator(".terminal-wrapper.active .xterm.focus").first().waitFor();
    const rows = desk.page.locator(".terminal-wrapper.active .xterm-rows", { hasText: "echo kept" });
    await desk.type("echo kept");
    await rows.first().waitFor();
    await desk.keys("Home", "Control+K"); // in a shell it would take the line away
    await desk.page.locator(".quick-input-widget", { hasText: "Describe a terminal command" }).first().waitFor();
    await desk.picture("terminal-key");
    await desk.keys("Escape");
    await box(desk).waitFor({ state: "hidden" });
    await rows.first().waitFor();
  });
}
