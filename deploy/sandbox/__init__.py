"""Sandbox providers: real HTTP servers that speak the providers' own protocols."""
