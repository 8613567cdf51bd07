// Waits for one task of type `upper` and does it: node work_task.mjs [URL]
const url = process.argv[2] ?? "http://127.0.0.1:8080"

async function post(path, body) {
  const reply = await fetch(`${url}/v1/leases${path}`, { method: "POST", body })
  const answer = await reply.json()
  if (!reply.ok) throw new Error(`${reply.status} ${answer.reason}: ${answer.message}`)
  return answer
}

const wanted = { types: ["upper"], max: 1, wait_ms: 20_000, lease_ms: 30_000, worker: "work_task.mjs" }
const { leases } = await post("", JSON.stringify(wanted))
for (const { token, id, payload } of leases) {
  try {
    const result = payload.toUpperCase() // `payload_base64` stands there if it is no text
    await post(`/${token}/complete`, result)
    console.log(`task ${id}: ${result}`)
  } catch (error) {
    await post(`/${token}/fail`, String(error)) // it is tried again later
    throw error
  }
}
