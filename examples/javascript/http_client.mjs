// Calls `upper` over HTTP with nothing but Node: node http_client.mjs [URL]
const url = process.argv[2] ?? "http://127.0.0.1:8080"
const reply = await fetch(`${url}/v1/services/upper?timeout=5s`, { method: "POST", body: "hello" })
if (reply.ok) {
  console.log(await reply.text())
} else {
  const { reason, message } = await reply.json()
  console.error(`${reply.status} ${reason}: ${message}`)
  process.exitCode = 1
}
