"""The mathematics, models and files of CogVideoX dataset editing; it knows nothing of Prefect."""
