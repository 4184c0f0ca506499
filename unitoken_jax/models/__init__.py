"""One file per published network and one per trained system."""
