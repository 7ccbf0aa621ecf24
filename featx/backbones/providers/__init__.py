"""Where networks come from: one small module each, imported by the catalog when a name needs it."""
