// Ctrl+K: a streamed diff in the editor, accepted or rejected, undone in one step.
import { until } from "../harness.mjs";

const BEFORE = "def add(a, b):\n    return a + b\n";

async function ask(desk, instruction) {
  await desk.keys("Control+K");
  const input = desk.page.locator(".quick-input-widget input").first();
  await input.waitFor({ state: "visible" });
  await desk.type(instruction, 5);
  await desk.keys("Enter");
}

export default async function play({ desk, step, assert }) {
  await step("Ctrl+K streams an edit as a diff", async () => {
    await desk.file("main.py");
    await desk.keys("Control+Home", "ArrowDown", "ArrowDown", "ArrowDown", "Shift+ArrowDown", "Shift+ArrowDown");
    await ask(desk, "add type hints");
    await until(async () => /def add\(a: float, b: float\) -> float:/.test(await desk.editorText()), "the new line");
    await desk.page.getByText("Accept All").first().waitFor();
    assert.match(await desk.editorText(), /def add\(a, b\):\n.*def add\(a: float/);
    await desk.picture("edit");
  });
  await step("accept all keeps the new text", async () => {
    await desk.focusEditor();
    await desk.keys("Control+Enter");
    await desk.save();
    await until(
      () => desk.read("main.py").includes("def add(a: float, b: float) -> float:\n    return a + b\n"),
      "the file",
    );
    assert.ok(!desk.read("main.py").includes(BEFORE));
  });
  await step("one undo brings the old text back", async () => {
    await desk.keys("Control+Z");
    await desk.save();
    await until(() => desk.read("main.py").includes(BEFORE), "the old text");
  });
  await step("reject all leaves no trace", async () => {
    const before = desk.read("main.py");
    await desk.keys("Control+Home", "ArrowDown", "ArrowDown", "ArrowDown", "Shift+ArrowDown", "Shift+ArrowDown");
    await ask(desk, "make it worse");
    await until(async () => /NotImplementedError/.test(await desk.editorText()), "the new line");
    await desk.page.getByText("Reject All").first().waitFor();
    await desk.focusEditor();
    await desk.keys("Control+Backspace");
    await until(async () => !/NotImplementedError/.test(await desk.editorText()), "the new line is gone");
    await desk.save();
    assert.equal(desk.read("main.py"), before);
  });
}
