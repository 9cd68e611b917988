"""The page on which memories can be seen: what it shows as functions, and the page of them apart."""
