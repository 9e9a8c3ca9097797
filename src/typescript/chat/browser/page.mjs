// Use the page as a person would, in headless Chromium: `node browser/page.mjs URL FOLDER`.
// Prints what was seen as JSON; the test that started us judges it.  Screenshots go to FOLDER.
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const [address, folder] = process.argv.slice(2);
const url = address.replace("127.0.0.1", "chat.test");
const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
// By a name, and not as localhost, which browsers take for secure: most first visits are on plain http.
const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--host-resolver-rules=MAP chat.test 127.0.0.1"],
});

const seen = { lengths: [], violations: {}, sideways: {}, composer: {}, errors: [] };

async function open(options) {
  const page = await (await browser.newContext(options)).newPage();
  // A machine under load is slow, but not for ever.
  page.setDefaultTimeout(20_000);
  page.on("pageerror", (error) => seen.errors.push(String(error)));
  page.on("console", (message) => {
    if (message.text().includes("Content Security Policy")) seen.errors.push(message.text());
  });
  await page.goto(url);
  // The composer takes the focus; keys before that would be lost.
  await page.locator("textarea:focus").waitFor();
  return page;
}

/** What an answer says, without its buttons. */
const textOf = (article) =>
  article.evaluate((it) => {
    const copy = it.cloneNode(true);
    for (const part of copy.querySelectorAll(".actions, .hint")) part.remove();
    return copy.textContent;
  });

const send = (page) => page.getByRole("button", { name: "Send" });

async function look(page, name) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  seen.violations[name] = violations.map(({ id, nodes }) => `${id}: ${nodes[0].html}`);
  seen.sideways[name] = await page.evaluate(
    () => document.documentElement.scrollWidth > document.documentElement.clientWidth,
  );
  seen.composer[name] = await page.getByLabel("Message").isVisible();
  await page.screenshot({ path: `${folder}/${name}.png` });
}

async function ask(page, text) {
  await page.keyboard.type(text);
  await page.keyboard.press("Enter");
}

const page = await open({ colorScheme: "light", viewport: { width: 1100, height: 700 } });
await look(page, "empty");
// The composer has the focus: nothing but the keyboard is used.
await ask(page, "Hello");
await page.locator("article.assistant").waitFor();
for (let tries = 0; tries < 200 && !(await send(page).isVisible()); tries++) {
  const length = (await textOf(page.locator("article.assistant")).catch(() => "")).length;
  if (length !== seen.lengths.at(-1)) seen.lengths.push(length);
  await page.waitForTimeout(20);
}
await send(page).waitFor();
await look(page, "light");

await page.reload();
seen.kept = await textOf(page.locator("article.assistant"));

await page.getByLabel("Message").focus();
await ask(page, "And now at length");
await page.locator("article.assistant").nth(1).waitFor();
await page.keyboard.press("Escape");
await send(page).waitFor({ timeout: 2000 });
seen.stopped = await textOf(page.locator("article.assistant").nth(1));

await page.route("**/api/chat", (route) => route.abort());
await ask(page, "Is anybody there?");
seen.offline = await page.getByRole("alert").innerText();
await look(page, "offline");
await page.unroute("**/api/chat");
await page.getByRole("button", { name: "Try again" }).click();
await page.getByRole("alert").waitFor({ state: "detached" });
await send(page).waitFor();
seen.retried = await textOf(page.locator("article").last());

seen.secure = await page.evaluate(() => globalThis.isSecureContext);
await page.locator("article.user").last().getByRole("button", { name: "Copy" }).click();
await page.getByRole("button", { name: "Copied" }).waitFor();

// Two tabs share what is said; a broken record costs itself alone.
const beside = await page.context().newPage();
await beside.goto(url);
await beside.getByRole("button", { name: "New conversation" }).first().click();
await ask(beside, "From the other tab");
await beside.locator("article.assistant").waitFor();
await send(beside).waitFor();
await page.getByRole("button", { name: "From the other tab", exact: true }).waitFor();
await beside.evaluate(() => localStorage.setItem("servekit-chat/broken", "{broken"));
await beside.reload();
await beside.locator("textarea:focus").waitFor();
seen.afterABrokenRecord = await beside.locator("nav .open").allInnerTexts();
await beside.close();

const dark = await open({ colorScheme: "dark", viewport: { width: 1100, height: 700 } });
await ask(dark, "Hello");
await dark.locator("article.assistant").waitFor();
await send(dark).waitFor();
await look(dark, "dark");

// What a real model writes, which the simulated one does not.
const told = [
  "Use a **generator**, which keeps nothing:\n\n",
  "```python\ndef squares(most: int):\n    # One at a time.\n    for n in range(most):\n        yield n * n\n```\n\n",
  "| `most` | squares |\n|---|---|\n| 3 | 0, 1, 4 |\n\n1. [Python](https://www.python.org) has them built in.\n\n",
  `# Then\n\n- [x] test it\n- [ ] ship it\n\n\`\`\`sh\npython -c '${"print(1); ".repeat(60)}'\n\`\`\`\n\n`,
  `| ${"a long heading | ".repeat(12)}\n|${"---|".repeat(12)}\n| ${"value | ".repeat(12)}\n\n### And so on\n`,
].map((delta) => `data: ${JSON.stringify({ delta })}\n\n`);
for (const colorScheme of ["light", "dark"]) {
  const written = await open({ colorScheme, viewport: { width: 1100, height: 700 } });
  const body = `${told.join("")}event: done\ndata: {}\n\n`;
  await written.route("**/api/chat", (route) => route.fulfill({ contentType: "text/event-stream", body }));
  await ask(written, "How do I square numbers in Python?");
  await written.locator("article.assistant table").first().waitFor();
  await send(written).waitFor();
  await look(written, `markdown-${colorScheme}`);
}

// A long answer beside 90 exchanges: the reader scrolls up meanwhile, and the page keeps up.
const long = await open({ colorScheme: "light", viewport: { width: 1100, height: 700 } });
const paragraph = `${told.join("").length} words of **some** weight, with \`code\` and more. `.repeat(12);
await long.evaluate((text) => {
  const turns = Array.from({ length: 180 }, (_, n) => ({ role: n % 2 ? "assistant" : "user", content: text }));
  localStorage.setItem("servekit-chat/long", JSON.stringify({ id: "long", turns, failure: null, changedAt: 9e12 }));
  localStorage.setItem("servekit-chat-current", "long");
}, paragraph);
await long.reload();
await long.locator("textarea:focus").waitFor();
await long.evaluate(() => {
  globalThis.blocked = [];
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) globalThis.blocked.push(Math.round(entry.duration));
  }).observe({ type: "longtask" });
});
await ask(long, "And now at length");
await long.locator("article").nth(181).waitFor();
const box = long.locator(".turns");
await box.hover();
await long.mouse.wheel(0, -3000);
await long.getByRole("button", { name: "To the end" }).waitFor();
const before = await box.evaluate((it) => it.scrollTop);
const grown = (await textOf(long.locator("article").last())).length;
await long.waitForFunction(
  (length) => [...document.querySelectorAll("article")].at(-1).textContent.length > length + 60,
  grown,
);
// Before axe, which takes its time.
seen.blocked = await long.evaluate(() => globalThis.blocked);
seen.scrolledWhileReading = (await box.evaluate((it) => it.scrollTop)) - before;
await look(long, "long");
await long.getByRole("button", { name: "To the end" }).click();
seen.atTheEnd = await box.evaluate((it) => it.scrollHeight - it.scrollTop - it.clientHeight);
await long.keyboard.press("Escape");
await send(long).waitFor();

const phone = await open({ colorScheme: "light", viewport: { width: 390, height: 844 }, isMobile: true });
await ask(phone, "Hello");
await phone.locator("article.assistant").waitFor();
await send(phone).waitFor();
await look(phone, "phone");

await browser.close();
console.log(JSON.stringify(seen));
