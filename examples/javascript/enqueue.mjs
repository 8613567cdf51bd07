// Enqueues a task of type `upper` and prints its number: node enqueue.mjs [URL]
import { randomUUID } from "node:crypto"

const url = process.argv[2] ?? "http://127.0.0.1:8080"
const reply = await fetch(`${url}/v1/tasks/upper`, {
  method: "POST",
  body: "hello",
  headers: { "idempotency-key": randomUUID() }, // sent again with this key it is the same task
})
const answer = await reply.json()
if (reply.ok) {
  console.log(answer.id)
} else {
  console.error(`${reply.status} ${answer.reason}: ${answer.message}`)
  process.exitCode = 1
}
