// The way to a server, step by step: what a person sees before a key is trusted, and where each step fails.

import assert from "node:assert/strict";
import net from "node:net";
import { after, before, describe, test } from "node:test";
import { Browser, LOOKS, Roundsman, Sshd, presentable, publicKey, setUp } from "./harness.js";

describe("the preflight", () => {
  const roundsman = new Roundsman();
  const sshd = new Sshd();
  const closed = new Sshd();
  let browser;
  let cookies;
  let garbage;

  before(async () => {
    await Promise.all([roundsman.start(), sshd.start(), closed.start()]);
    sshd.authorize(publicKey(roundsman));
    garbage = net.createServer((socket) => {
      socket.on("error", () => socket.destroy());
      socket.end("220 mail.example.com ESMTP\r\n");
    });
    await new Promise((resolve) => garbage.listen(0, "127.0.0.1", resolve));
    browser = await Browser.launch();
    const profile = await browser.profile();
    await setUp(await profile.newPage(), roundsman);
    cookies = await profile.cookies();
    await profile.close();
  });

  after(async () => {
    await browser?.close();
    garbage?.close();
    for (const daemon of [sshd, closed]) await daemon.remove();
    await roundsman.remove();
  });

  const step = (page, name) => page.locator("#preflight .preflight-steps li", { has: page.locator("b", { hasText: name }) });

  async function check(page, address, name) {
    await page.goto(`${roundsman.url}/servers/new`);
    await page.fill("input[name=hostname]", address);
    await page.fill("input[name=name]", name);
    await page.click("text=Check the way there");
    await page.locator("#preflight").waitFor();
  }

  for (const [look, options] of Object.entries(LOOKS)) {
    test(`every outcome is told, fits and is readable: ${look}`, async () => {
      browser.expect(/status of 4\d\d/);
      const profile = await browser.profile(options);
      await profile.addCookies(cookies);
      const page = await profile.newPage();

      await check(page, "root@no-such-host.invalid", "nowhere");
      assert.match(await step(page, "Name").getAttribute("class"), /is-failed/);
      assert.match(await step(page, "Name").innerText(), /not found/);
      await presentable(page, `preflight-no-name-${look}`);

      await check(page, "root@127.0.0.1:1", "nobody-listens");
      assert.match(await step(page, "TCP").innerText(), /refused[\s\S]*systemctl start ssh/);
      assert.match(await step(page, "Banner").getAttribute("class"), /is-untried/);
      await presentable(page, `preflight-refused-${look}`);

      await check(page, `root@127.0.0.1:${garbage.address().port}`, "mail");
      assert.match(await step(page, "Banner").getAttribute("class"), /is-failed/);
      await presentable(page, `preflight-no-ssh-${look}`);

      await check(page, sshd.address, `web-${look}`);
      assert.ok((await page.locator("#preflight .fingerprint").innerText()).includes(sshd.fingerprint));
      await page.getByRole("button", { name: "Trust this key and add the server" }).waitFor();
      await presentable(page, `preflight-unknown-key-${look}`);
      assert.equal(sshd.logins(), 0, "nobody logs in before the key is approved");

      await check(page, closed.address, `closed-${look}`);
      await page.getByRole("button", { name: "Trust this key and add the server" }).click();
      await page.locator("#preflight.is-bad").waitFor();
      assert.match(await step(page, "Authentication").innerText(), /authorized_keys/);
      await presentable(page, `preflight-not-let-in-${look}`);
      await profile.close();
    });
  }

  test("no page complained", () => browser.assertQuiet());
});
