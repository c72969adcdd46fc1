"""Manage the state folder: home, files, records, run folders, provenance and errors of disks."""
