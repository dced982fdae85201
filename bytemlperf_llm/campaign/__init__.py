"""Campaigns: several engines under the same loads, each run in a process of its own, in one report with one gate."""
