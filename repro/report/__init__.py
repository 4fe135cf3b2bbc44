"""Reports: what a bundle says, for people. Everything shown is rendered from records and escaped."""
