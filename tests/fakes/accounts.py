"""Who may log in to the registries of the tests, and what these and their token servers call themselves."""

import base64

REPOSITORY = "library/web"
USER, PASSWORD = "somebody", "pass:word"
BASIC = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
SERVICE, ISSUER = "a registry", "a token server"
