"""Nodes of a traced network as steps: which rule serves which operation, and with what facts."""
