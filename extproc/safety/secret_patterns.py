"""The formats of keys and tokens, as their providers document them, in RE2 syntax.

Each has a fixed beginning, so that ordinary text is seldom taken for one.
"""

from collections.abc import Mapping
from typing import Final

SECRETS: Final[Mapping[str, str]] = {
    "anthropic": r"\bsk-ant-[A-Za-z0-9_-]{20,}",
    "aws": r"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b",  # IAM identifiers: AKIA is a user's key, ASIA a temporary one
    "azure": r"\bAccountKey=[A-Za-z0-9+/]{86}==",  # a storage connection string
    "databricks": r"\bdapi[0-9a-f]{32}(?:-\d)?\b",
    "digitalocean": r"\bdo[opr]_v1_[0-9a-f]{64}\b",
    "github": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{82})\b",
    "gitlab": r"\bglpat-[A-Za-z0-9_-]{20,}",
    "google": r"\bAIza[A-Za-z0-9_-]{35}",
    "groq": r"\bgsk_[A-Za-z0-9]{40,}\b",
    "huggingface": r"\bhf_[A-Za-z0-9]{30,}\b",
    "jwt": r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{16,}",  # RFC 7519, signed
    "mailgun": r"\bkey-[0-9a-f]{32}\b",
    "npm": r"\bnpm_[A-Za-z0-9]{36}\b",
    "openai": r"\bsk-(?:proj-|svcacct-|admin-)?[A-Za-z0-9_]{20,}[A-Za-z0-9_-]*",
    "private_key": (  # RFC 7468
        r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY-----[A-Za-z0-9+/=\s\\]*"
        r"(?:-----END (?:[A-Z0-9]+ ){0,3}PRIVATE KEY-----)?"
    ),
    "pypi": r"\bpypi-[A-Za-z0-9_-]{16,}",
    "sendgrid": r"\bSG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}",
    "shopify": r"\bshp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}\b",
    "slack": (
        r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}"
        r"|hooks\.slack\.com/services/T[A-Z0-9]{6,}/B[A-Z0-9]{6,}/[A-Za-z0-9]{16,}"
    ),
    "stripe": r"\b(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,}\b",
    "telegram": r"\b\d{8,10}:AA[A-Za-z0-9_-]{33}",
    "twilio": r"\b(?:SK|AC)[0-9a-f]{32}\b",
    "vault": r"\bhvs\.[A-Za-z0-9_-]{24,}",
}
