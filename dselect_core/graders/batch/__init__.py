"""Grades by OpenAI's Batch API: files of requests, answered within a day, at half the price."""
