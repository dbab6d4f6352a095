/* How the search orders pages: those for users come before the reasons of the design. Other values are those of Sphinx. */
var Scorer = {
  score: ([page, , , , score]) => (/^(decisions\/|design|benchmarks|changes)/.test(page) ? score - 14 : score),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
