"""Spellings of the chat path that some server accepts."""

CHAT = "/v1/chat/completions"

# Envoy itself makes the chat path of these.
NORMALISED = (
    "/v1//chat/completions",
    "//v1/chat/completions",
    "/v1/./chat/completions",
    "/v1/files/../chat/completions",
    "/v1/files/..;/chat/completions",
    "/v1%2fchat%2Fcompletions",
    "/v1%5Cchat/completions",
    r"/v1\chat\completions",
    "/%76%31/ch%61t/completion%73",
    "/v1/%2e%2e/v1/chat/completions",
)
# Envoy leaves these as they are, or takes them for another path.
LEFT = (
    f"{CHAT}/",
    f"{CHAT}//",
    f"{CHAT}%2f",
    f"{CHAT}%2F%2f",
    f"{CHAT}/.",
    f"{CHAT}/%2e",
    f"{CHAT}/x/..",
    f"{CHAT}\\",
    f"{CHAT}%5c",
    f"{CHAT}%20",
    f"{CHAT}/%20",
    f"{CHAT}%09",
    f"{CHAT}%0d%0a",
    f"{CHAT}%23fragment",
    f"{CHAT}%3Fquery",
    f"{CHAT}%2500",
    f"{CHAT}.",
    f"{CHAT}.json",
    f"{CHAT}:create",
    f"{CHAT},",
    f"{CHAT};a=b",
    f"{CHAT};",
    f"{CHAT}/;a=b",
    "/v1;a=b/chat/completions",
    "/v1/chat;/completions",
    "/V1/Chat/Completions",
    "/v1/chat/COMPLETIONS/",
    "/v1%252fchat%252Fcompletions",
    "/v1/%2563hat/completions",
    "/v1/chat%252525252fcompletions",
    "/%2576%2531/chat/completions",
    "/v1/%252e/chat/completions",
    "/v1/files/%252e%252e/chat/completions",
    "/v1/chat/completion%C5%BF",
    "/v1/chat/%EF%BD%83ompletions",
    "/v1%EF%BC%8Fchat/completions",
)
# Envoy answers 400 to these.
INVALID = (
    f"{CHAT}%00",
    f"{CHAT}\0",
    f"{CHAT}#fragment",
    "/v1/chat/completionſ",
    f"{CHAT}\u200b",
    "/v1／chat／completions",
)
# Where a provider takes prompts as well.
ELSEWHERE = (
    f"/openai{CHAT}",
    f"/api{CHAT}",
    "/chat/completions",
    "/openai/deployments/gpt/chat/completions?api-version=2024-06-01",
    "/v1/engines/gpt/completions",
    "/v1/batches",
    "/v1/messages/batches",
    "/v1/complete",
    "/v1/threads/runs",
)
