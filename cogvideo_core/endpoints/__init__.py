"""Language models behind an address: one client for OpenAI-compatible chat endpoints, which may be anyone's.

Outsiders use `chat` (Endpoint, posted, text_of, picture). What is asked, and what an answer means, is the caller's.
"""
