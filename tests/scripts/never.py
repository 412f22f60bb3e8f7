"""Never trains."""

print("no training here")
